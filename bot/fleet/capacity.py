"""Computes how many more tenants fit on a host: what runs, what is promised, what is reserved. Pure."""

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
    """What an operation makes run or grow on a host.

    `memory`: bytes that it is expected to take; `plan`: bytes that its plan lets it take; `tenants`: how many more
    there are then. `instance` is the container that starts, "" where one that runs already only grows. `passing`: only
    while the operation runs, so that of a batch no more counts than runs at once.
    """

    host: str
    instance: str = ""
    memory: int = 0
    plan: int = 0
    tenants: int = 0
    passing: bool = False

    def stored(self) -> dict[str, Any]:
        """Return it as it is kept with an operation's plan."""
        return asdict(self)


@dataclass(frozen=True)
class Occupant:
    """A container that stands on a host. `runs`: it does, or is meant to, so that LXD starts it after a reboot.

    `growth`: bytes that it is still expected to take beside what it has now; `plan`: bytes that its plan lets it take.
    """

    instance: str
    runs: bool
    growth: int = 0
    plan: int = 0
    tenant: bool = True


@dataclass(frozen=True)
class FreeSpace:
    """What is left on a host: bytes, and tenants. `most_plans` and `most_tenants` are limits, 0: there is none."""

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
        """Bytes that may still be given away; below 0 where the reserve is touched."""
        return self.resources.available - self.promised - self.reserve

    def lacks(self, demand: Demand) -> str:
        """Say why it does not fit, with what is there and what would be needed; "" when it does."""
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
        """Say what is left once it runs, for the card."""
        left = f"{size(max(self.left - demand.memory, 0))} of {size(self.resources.total)} left on {self.host}"
        takes = f"about {size(demand.memory)}" if demand.memory else "no more than now"
        return f"{takes}; then {left}, plus {size(self.reserve)} reserved"

    def fits(self, demand: Demand) -> int:
        """Return how many of a kind fit, one after the other."""
        counts = []
        if demand.memory:
            counts.append(max(self.left, 0) // demand.memory)
        if demand.plan and self.most_plans:
            counts.append(max(self.most_plans - self.plans, 0) // demand.plan)
        if demand.tenants and self.most_tenants:
            counts.append(max(self.most_tenants - self.tenants, 0) // demand.tenants)
        return min(counts, default=0)


def reserved(settings: CapacitySettings, total: int) -> int:
    """Return the bytes of a host's memory that are never given away."""
    if settings.reserve.endswith("%"):
        return total * int(settings.reserve[:-1]) // 100
    return size_bytes(settings.reserve)


@dataclass(frozen=True)
class Alike:
    """What was measured of the tenants of one plan, and of the hosts that tenants stand on.

    `most`: the most bytes that each of them told of itself of late; `seen`: bytes that the hosts of the fleet have in
    use, with all else that runs there, for each byte that their tenants tell; 0: not measured.
    """

    most: tuple[int, ...] = ()
    seen: float = 0.0


UNMEASURED = 4
"""As many measured tenants the careful figure counts as much as: a few that are idle say little of the next one."""
AT_WORST = 2.0
"""Bytes that a host had in use at most for each that its tenants told, where little else ran there."""


def expected(settings: CapacitySettings, plan: PlanSize, alike: Alike = Alike()) -> int:
    """Return the bytes that a tenant of a plan is expected to take of its host.

    Where none was measured that is a share of its plan. The more of its like were, the more it is what they took on
    average, by their hosts' count: a host has more in use than its tenants know of. It is never less than they tell.
    """
    share = size_bytes(plan.memory) * settings.expected // 100
    if not alike.most:
        return share
    told = sum(alike.most) // len(alike.most)
    # Beyond the worst it is something else that runs there, or there are too few tenants to say.
    taken = int(told * min(alike.seen or AT_WORST, AT_WORST))
    return max(told, (UNMEASURED * share + len(alike.most) * taken) // (UNMEASURED + len(alike.most)))


def seen_by_hosts(hosts: Iterable[tuple[int, int]]) -> float:
    """Return the bytes in use for each that tenants tell; 0: not measured.

    What else runs on a host counts as its tenants', so it is rather too much than too little.

    Args:
        hosts: (bytes in use, bytes that its tenants tell) of each; 0: unknown.
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
    """Return what is left on a host, given what stands on it and what was approved for it but does not run yet."""
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

    Growth may take of the reserve, which is there for that; a host is overloaded when less than half of it is left.
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
