"""`/mautic resize`: a tenant gets another plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches

from bot.engine.context import Context, Run
from bot.engine.placement import admit, use
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.fleet.capacity import Demand
from bot.fleet.inventory import Host
from bot.lxd.protocol import LxdError, PoolFull, size_bytes
from bot.model.labels import stamp, stamps
from bot.model.plan import Plan, Refused, Step, Steps, UnknownWords, always, require
from bot.model.tenants import PlanSize, Tenant
from bot.model.text import size as in_words
from bot.settings import Settings

MARGIN = 0.9
"""Share of a smaller disk that may be in use: MariaDB and LXD write on, and one that is full kills the tenant."""


NOBODY_MISSES = (
    "/var/lib/dpkg/status-old",
    "/var/cache/debconf/templates.dat-old",
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
)
"""Files of Debian's that are made again, or never read."""
COUNTED = 45.0
"""Seconds within which a filesystem counts no more what was removed."""


@dataclass(frozen=True)
class Inputs:
    """`found` has the plan of before; `size` is that of the new `plan`."""

    found: Tenant
    plan: str
    size: PlanSize


@operation
def resize(context: Context, tenant: TenantArgument, *, plan: str) -> Plan:
    """Give a tenant another plan: CPUs, memory and disk at once, and the sizes of its database, PHP and workers."""
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    size = plan_named(context.settings, plan)
    due = stamp(host.lxd.instance(found.instance).config, "sizes-due")
    had, runs = context.settings.plans.get(found.plan), found.status == "Running"
    smaller = had is not None and _is_smaller(size, had)
    requires = [
        require(found.plan != plan or bool(due), f"`{tenant}` has the plan {plan} already."),
        require(
            not smaller or runs,
            f"`{tenant}` gives no memory back while it does not run; `/mautic start {tenant}` first.",
        ),
        always(_refuse_too_small, host, found, plan, size),
    ]
    demand = None
    if had and not smaller and runs:
        uses = use(context)
        grows = max(0, uses.expected(plan, tenant) - uses.expected(found.plan, tenant))
        demand = Demand(host.name, memory=grows, plan=size_bytes(size.memory) - size_bytes(had.memory))
        requires.append(always(admit, context, host, demand, f"`{tenant}` cannot grow on"))
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "plan": plan},
        summary=f"Give the tenant {tenant} the plan {plan}",
        facts={"Plan": f"{plan}: {size.cpu} CPUs, {size.memory} memory, {size.disk} disk"},
        values={"size": plan, "cpu": size.cpu, "memory": size.memory, "disk": size.disk},
        remarks={"Before": found.plan} if found.plan else {},
        requires=tuple(requires),
        inputs=Inputs(found, plan, size),
        demand=demand.stored() if demand else None,
        reversible="can be undone with `resize` to the plan before",
        seconds=3,
    )


def _is_smaller(size: PlanSize, had: PlanSize) -> bool:
    return size_bytes(size.memory) < size_bytes(had.memory)


def _give_way(host: Host, found: Tenant) -> None:
    """Remove what nobody misses, where a disk is so full that not even a larger limit can be written down on it."""
    for path in NOBODY_MISSES:
        host.lxd.remove(found.instance, path)
    with suppress(LxdError):
        host.mautic.sync(found.instance)


def _until_it_is_counted(work: Callable[[], None]) -> None:
    """Do it once what was removed counts no more: a filesystem writes that down every half minute."""
    give_up = time.monotonic() + COUNTED
    while True:
        try:
            return work()
        except PoolFull:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def _refuse_too_small(host: Host, found: Tenant, plan: str, size: PlanSize) -> None:
    """Raise Refused when the disk would become too small for what is on it, or nobody can tell what that is."""
    instance = host.lxd.instance(found.instance)
    limit = instance.devices.get("root", {}).get("size")
    if limit and size_bytes(size.disk) >= size_bytes(limit):
        return
    stays = f"so `{found.name}` cannot get the smaller disk of {plan}"
    if not instance.running:
        raise Refused(
            f"What it uses of its disk cannot be measured while it does not run, {stays}; "
            f"`/mautic start {found.name}` first."
        )
    disk = host.mautic.disk(found.instance, size, usage=host.lxd.state(found.instance).disk)
    used = disk.used
    if used is None:
        why = f" ({disk.why})" if disk.why else ""
        raise Refused(f"What it uses of its disk cannot be measured on {found.host}{why}, {stays}.")
    if used > MARGIN * size_bytes(size.disk):
        raise Refused(
            f"`{found.name}` uses {in_words(used)} of disk, too much for {plan}'s {in_words(size_bytes(size.disk))}, "
            f"of which at most {MARGIN:.0%} may be in use then."
        )


def plan_named(settings: Settings, name: str) -> PlanSize:
    """Return a plan's sizes, or refuse with the nearest plan."""
    if name in settings.plans:
        return settings.plans[name]
    near = get_close_matches(name, settings.plans, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there is {', '.join(settings.plans)}."
    raise UnknownWords(f"There is no plan “{name[:40]}”; {hint}")


@steps_of(resize)
def steps(run: Run, inputs: Inputs) -> Steps:
    """First what LXD limits, then what the tenant makes of it."""
    found, plan, size = inputs.found, inputs.plan, inputs.size
    host = run.fleet.of(found)

    def give(name: str, given: PlanSize, mark: Mapping[str, str]) -> None:
        # All at once: where the disk is full LXD takes nothing that does not enlarge it.
        host.lxd.update(found.instance, {**mark, **stamps(plan=name), **given.limits()}, root(given.disk))

    def root(disk: str) -> dict[str, dict[str, str]]:
        return {"root": {"type": "disk", "path": "/", "pool": run.settings.lxd.pool, "size": disk}}

    def limits() -> None:
        if found.plan == plan:
            return
        # It may have grown since it was looked at, and LXD lets a limit hold that it says it refused.
        _refuse_too_small(host, found, plan, size)
        mark = stamps(was_plan=found.plan, resized_by=run.operation)
        had = run.settings.plans.get(found.plan)
        if had is not None and _is_smaller(size, had):
            # What MariaDB holds it has to give back before it is taken away.
            host.lxd.update(found.instance, mark)
            host.mautic.resize(found.instance, size)
        try:
            give(plan, size, mark)
        except PoolFull:
            _give_way(host, found)
            _until_it_is_counted(lambda: give(plan, size, mark))

    def inside() -> str | None:
        instance = host.lxd.instance(found.instance)
        if not instance.running:
            host.lxd.update(found.instance, stamps(sizes_due=1))
            return "it does not run: once it does, the same resize gives its database the new size"
        host.mautic.resize(found.instance, size)
        if stamp(instance.config, "sizes-due"):
            host.lxd.update(found.instance, stamps(sizes_due=""))
        return None

    def undo() -> str | None:
        """Give back the plan before, but never take a disk away that is needed by now: what failed comes after it."""
        instance = host.lxd.instance(found.instance)
        was = stamp(instance.config, "was-plan")
        if stamp(instance.config, "resized-by") != str(run.operation) or was not in run.settings.plans:
            return None
        old = run.settings.plans[was]
        try:
            _refuse_too_small(host, found, was, old)
        except (Refused, LxdError):
            host.lxd.update(found.instance, stamps(sizes_due=1))
            return f"it keeps the plan {plan}, as what it has on its disk may not fit into {was}"
        give(was, old, {})
        if instance.running:
            host.mautic.resize(found.instance, old)
        return None

    return Steps(
        (Step("limits", "Set the container's limits", limits), Step("inside", "Set the sizes inside", inside)),
        undo=undo,
    )
