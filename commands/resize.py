"""`/mautic resize`: a tenant gets another plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches

from bot.capacity import Demand
from bot.fleet import Host
from bot.labels import stamp, stamps
from bot.lxd import LxdError, PoolFull, size_bytes
from bot.messages import size as in_words
from bot.placement import admit, use
from bot.plan import Plan, Refused, Step, UnknownWords
from bot.registry import Context, TenantArgument, operation
from bot.settings import Settings
from bot.tenants import PlanSize, Tenant

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


@operation
def resize(context: Context, tenant: TenantArgument, *, plan: str) -> Plan:
    """Give a tenant another plan: CPUs, memory and disk at once, and the sizes of its database, PHP and workers."""
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    size = plan_named(context.settings, plan)
    instance = host.lxd.instance(found.instance)
    before = stamp(instance.config, "was-plan") if context.operation else found.plan
    due = stamp(instance.config, "sizes-due")
    if found.plan == plan and not due and not context.operation:
        raise Refused(f"`{tenant}` has the plan {plan} already.")
    had = context.settings.plans.get(found.plan)
    smaller = had is not None and size_bytes(size.memory) < size_bytes(had.memory)
    if smaller and found.status != "Running" and not context.begun:
        raise Refused(f"`{tenant}` gives no memory back while it does not run; `/mautic start {tenant}` first.")
    if not context.begun:
        _refuse_too_small(host, found, plan, size)
    demand, room = None, dict[str, str]()
    if had and not smaller and found.status == "Running":
        uses = use(context)
        grows = max(0, uses.expected(plan, tenant) - uses.expected(before, tenant))
        demand = Demand(host.name, memory=grows, plan=size_bytes(size.memory) - size_bytes(had.memory))
        room = admit(context, host, demand, f"`{tenant}` cannot grow on")

    def give(name: str, given: PlanSize, mark: Mapping[str, str]) -> None:
        # All at once: where the disk is full LXD takes nothing that does not enlarge it.
        host.lxd.update(found.instance, {**mark, **stamps(plan=name), **given.limits()}, root(given.disk))

    def root(disk: str) -> dict[str, dict[str, str]]:
        return {"root": {"type": "disk", "path": "/", "pool": context.settings.lxd.pool, "size": disk}}

    def limits() -> None:
        if found.plan == plan:
            return
        # It may have grown since it was looked at, and LXD lets a limit hold that it says it refused.
        _refuse_too_small(host, found, plan, size)
        mark = stamps(was_plan=found.plan, resized_by=context.operation)
        if smaller:
            # What MariaDB holds it has to give back before it is taken away.
            host.lxd.update(found.instance, mark)
            host.mautic.resize(found.instance, size)
        try:
            give(plan, size, mark)
        except PoolFull:
            _give_way(host, found)
            _until_it_is_counted(lambda: give(plan, size, mark))

    def inside() -> str | None:
        if not host.lxd.instance(found.instance).running:
            host.lxd.update(found.instance, stamps(sizes_due=1))
            return "it does not run: once it does, the same resize gives its database the new size"
        host.mautic.resize(found.instance, size)
        if due:
            host.lxd.update(found.instance, stamps(sizes_due=""))
        return None

    def undo() -> str | None:
        """Give back the plan before, but never take a disk away that is needed by now: what failed comes after it."""
        instance = host.lxd.instance(found.instance)
        was = stamp(instance.config, "was-plan")
        if stamp(instance.config, "resized-by") != str(context.operation) or was not in context.settings.plans:
            return None
        old = context.settings.plans[was]
        try:
            _refuse_too_small(host, found, was, old)
        except (Refused, LxdError):
            host.lxd.update(found.instance, stamps(sizes_due=1))
            return f"it keeps the plan {plan}, as what it has on its disk may not fit into {was}"
        give(was, old, {})
        if instance.running:
            host.mautic.resize(found.instance, old)
        return None

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "plan": plan},
        summary=f"Give the tenant {tenant} the plan {plan}",
        facts={"Plan": f"{plan}: {size.cpu} CPUs, {size.memory} memory, {size.disk} disk"},
        values={"size": plan, "cpu": size.cpu, "memory": size.memory, "disk": size.disk},
        remarks=({"Before": before} if before else {}) | room,
        demand=demand.stored() if demand else None,
        steps=(Step("limits", "Set the container's limits", limits), Step("inside", "Set the sizes inside", inside)),
        reversible="can be undone with `resize` to the plan before",
        seconds=3,
        undo=undo,
    )


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
