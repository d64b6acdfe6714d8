"""Computes how many more tenants fit on a host, from what runs, what is promised and what is reserved. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bot.lxd.protocol import Resources, size_bytes
from bot.model.tenants import PlanSize
from bot.model.text import size
from bot.settings import CapacitySettings


@dataclass(frozen=True)
class Demand:
    """The capacity of a host that an operation needs, for a container that it starts or lets grow.

    `memory`: bytes that the container is expected to use; `plan`: bytes that its plan allows; `tenants`: how many
    tenants the operation adds to the host. `instance` is the container that starts, "" where a running one only grows.
    `passing`: the demand lasts only while the operation runs, so that a batch needs no more than its operations that
    run at once.
    """

    host: str
    instance: str = ""
    memory: int = 0
    plan: int = 0
    tenants: int = 0
    passing: bool = False

    def stored(self) -> dict[str, Any]:
        """Return the form in which an operation's plan stores it."""
        return asdict(self)


@dataclass(frozen=True)
class Occupant:
    """A container on a host. `runs`: it runs, or is meant to, so that LXD starts it after a reboot.

    `growth`: bytes that it is expected to use in addition to what it uses now; `plan`: bytes that its plan allows.
    """

    instance: str
    runs: bool
    growth: int = 0
    plan: int = 0
    tenant: bool = True


@dataclass(frozen=True)
class FreeSpace:
    """The use of a host, in bytes and tenants. `most_plans` and `most_tenants` are limits; 0: none."""

    host: str
    resources: Resources
    reserve: int
    promised: int
    plans: int
    most_plans: int
    tenants: int
    most_tenants: int

    @property
    def left(self) -> int:
        """Bytes that new demands may still take; below 0 where the reserve is already in use."""
        return self.resources.available - self.promised - self.reserve

    def lacks(self, demand: Demand) -> str:
        """Say why a demand does not fit, with what is free and what it needs; "" when it fits."""
        if demand.tenants and self.most_tenants and self.tenants + demand.tenants > self.most_tenants:
            return f"it already runs {self.tenants} tenants, and `capacity.tenants` allows {self.most_tenants}"
        if demand.memory > max(self.left, 0):
            return f"{size(demand.memory)} of memory needed, but {self._there()}"
        if demand.plan and self.most_plans and self.plans + demand.plan > self.most_plans:
            return (
                f"its plans add up to {size(self.plans)} of memory, with this one to "
                f"{size(self.plans + demand.plan)}, and `capacity.overcommit` allows {size(self.most_plans)}"
            )
        return ""

    def _there(self) -> str:
        told = f"{size(max(self.resources.available, 0))} of {size(self.resources.total)} free"
        parts = [f"{size(self.reserve)} reserved"] if self.reserve else []
        if self.promised:
            parts.insert(0, f"{size(self.promised)} promised to approved or just started tenants")
        return f"{told}, of which {' and '.join(parts)}" if parts else told

    def after(self, demand: Demand) -> str:
        """Say for the card what is left on the host once the demand is met."""
        left = f"{size(max(self.left - demand.memory, 0))} of {size(self.resources.total)} left on {self.host}"
        takes = f"about {size(demand.memory)}" if demand.memory else "no more than now"
        return f"{takes}; then {left}, plus {size(self.reserve)} reserved"

    def fits(self, demand: Demand) -> int:
        """Return how many demands like this one fit together."""
        counts = []
        if demand.memory:
            counts.append(max(self.left, 0) // demand.memory)
        if demand.plan and self.most_plans:
            counts.append(max(self.most_plans - self.plans, 0) // demand.plan)
        if demand.tenants and self.most_tenants:
            counts.append(max(self.most_tenants - self.tenants, 0) // demand.tenants)
        return min(counts, default=0)


def reserved(settings: CapacitySettings, total: int) -> int:
    """Return the bytes of a host's memory that no demand may take."""
    if settings.reserve.endswith("%"):
        return total * int(settings.reserve[:-1]) // 100
    return size_bytes(settings.reserve)


@dataclass(frozen=True)
class PlanMeasurements:
    """Measurements of the tenants of one plan, and of the hosts that tenants run on.

    `most`: the recent maximum of each tenant's own memory readings, in bytes. `seen`: bytes in use on the hosts of the
    fleet, including everything else that runs there, per byte that their tenants report; 0: not measured.
    """

    most: tuple[int, ...] = ()
    seen: float = 0.0


UNMEASURED = 4
"""The weight of the cautious estimate, in measured tenants: a few idle tenants say little about the next one."""
AT_WORST = 2.0
"""Bytes in use at most on a host per byte that its tenants reported, measured where little else ran."""


def expected(settings: CapacitySettings, plan: PlanSize, alike: PlanMeasurements = PlanMeasurements()) -> int:
    """Return the bytes of its host's memory that a tenant of a plan is expected to use.

    Without measurements it is a share of the plan. The more tenants of the plan were measured, the closer it comes to
    their average as their hosts count it, because a host uses more memory than its tenants report. It is never less
    than the average that the tenants report.
    """
    share = size_bytes(plan.memory) * settings.expected // 100
    if not alike.most:
        return share
    told = sum(alike.most) // len(alike.most)
    # A higher ratio comes from something else that runs on the hosts, or from too few tenants.
    taken = int(told * min(alike.seen or AT_WORST, AT_WORST))
    return max(told, (UNMEASURED * share + len(alike.most) * taken) // (UNMEASURED + len(alike.most)))


def seen_by_hosts(hosts: Iterable[tuple[int, int]]) -> float:
    """Return the bytes that hosts have in use per byte that their tenants report; 0: not measured.

    Everything else that runs on a host counts as its tenants', so the ratio errs on the high side.

    Args:
        hosts: (bytes in use, bytes that its tenants report) of each host; 0: unknown.
    """
    known = [(used, told) for used, told in hosts if used > 0 and told > 0]
    return sum(used for used, _ in known) / sum(told for _, told in known) if known else 0.0


def free_space(
    host: str,
    resources: Resources,
    settings: CapacitySettings,
    occupants: Iterable[Occupant],
    pending: Iterable[Demand],
) -> FreeSpace:
    """Return what is free on a host, given its containers (`occupants`) and the approved demands on it (`pending`)."""
    there, coming = list(occupants), list(pending)
    runs = [one for one in there if one.runs]
    return FreeSpace(
        host,
        resources,
        reserve=reserved(settings, resources.total),
        promised=sum(one.growth for one in runs) + sum(one.memory for one in coming),
        plans=sum(one.plan for one in runs) + sum(one.plan for one in coming),
        most_plans=int(settings.overcommit * resources.total),
        tenants=sum(one.tenant for one in there) + sum(one.tenants for one in coming),
        most_tenants=settings.tenants,
    )


def strain(resources: Resources, settings: CapacitySettings) -> str:
    """Say why a host is overloaded, so that nothing new may start there; "" when it is not.

    Running containers may grow into the reserve, which exists for that. A host is overloaded when less than half of
    the reserve is free, when its load is above the limit, or when its server answers slowly.
    """
    half = reserved(settings, resources.total) // 2
    if resources.available < half:
        return (
            f"{size(max(resources.available, 0))} of {size(resources.total)} of memory free, less than half of the "
            "reserve"
        )
    most = settings.load * resources.cores
    if most and resources.load is not None and resources.load > most:
        return f"load {resources.load:.0f}, the limit for {resources.cores} cores is {most:.0f}"
    if settings.slow and resources.seconds > settings.slow:
        return f"its server took {resources.seconds:.0f} s to answer"
    return ""
