"""`/mautic resize`: give a tenant another plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from bot.engine.context import Context, Run
from bot.engine.placement import Elsewhere, admit, inside_of, use
from bot.engine.registry import PlanOption, TenantArgument, operation, steps_of
from bot.fleet.capacity import Demand
from bot.fleet.inventory import Host
from bot.lxd.protocol import Instance, LxdError, PoolFull, size_bytes
from bot.model.labels import as_labels, label_of
from bot.model.plan import Plan, Refused, Step, Steps, UnknownWords, always, require
from bot.model.tenants import PlanSize, Tenant
from bot.model.text import limit
from bot.model.text import size as in_words
from bot.settings import Settings

MARGIN = 0.9
"""Share of a smaller disk that may be in use: MariaDB and LXD keep writing, and a full disk stops the tenant."""


NOBODY_MISSES = (
    "/var/lib/dpkg/status-old",
    "/var/cache/debconf/templates.dat-old",
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
)
"""Files of Debian that are recreated, or never read."""
COUNTED = 45.0
"""Seconds within which a filesystem stops counting deleted files."""


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `found` has the previous plan and disk; `size` is that of the new `plan`.

    `limits`: what the container had, as the settings may have changed or removed its previous plan since; empty: an
    earlier release did not store them.
    """

    found: Tenant
    plan: str
    size: PlanSize
    limits: Mapping[str, str] = field(default_factory=dict)


@operation
def resize(context: Context, tenant: TenantArgument, *, plan: PlanOption) -> Plan:
    """Resize a tenant to another plan: CPUs, memory, disk, and the sizes of its database, PHP and mail workers."""
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    size = plan_named(context.settings, plan)
    instance = host.lxd.instance(found.instance)
    due = label_of(instance.config, "sizes-due")
    # The container's own limits: the settings may have changed or removed its plan since.
    limits = {key: instance.config.get(key, "") for key in size.limits()}
    changes, runs = found.plan != plan, found.status == "Running"
    smaller = changes and _lowers(size.memory, instance)
    requires = [
        require(changes or bool(due), f"`{tenant}` already has the plan {plan}."),
        require(
            not smaller or runs,
            f"`{tenant}` is stopped, so its memory cannot be reduced; `/mautic start {tenant}` first.",
        ),
        always(_refuse_too_small, host, found, plan, size),
    ]
    demand = None
    if not smaller and runs:
        uses = use(context)
        # Only what exceeds the present plan. One that is gone is expected to use as much as the smallest plan, and has
        # no part in the sum of all plans.
        grows = max(0, uses.expected(plan, tenant) - uses.expected(found.plan, tenant))
        had = context.settings.plans.get(found.plan)
        more = max(0, size_bytes(size.memory) - (size_bytes(had.memory) if had else 0))
        demand = Demand(host.name, memory=grows, plan=more)
        elsewhere = Elsewhere.by_move(found)
        requires.append(always(admit, context, host, demand, f"`{tenant}` cannot grow on", elsewhere))
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "plan": plan},
        summary=f"Resize tenant {tenant} from {found.plan} to {plan}"
        if found.plan and changes
        else f"Resize tenant {tenant} to {plan}",
        facts={"Plan": _shown(plan, size.limits(), size.disk)},
        values={"size": plan, "cpu": size.cpu, "memory": size.memory, "disk": size.disk},
        remarks={"Before": _shown(found.plan or "no plan", limits, found.disk)},
        requires=tuple(requires),
        inputs=Inputs(found, plan, size, limits),
        demand=demand.stored() if demand else None,
        reversible="can be undone with `resize` to the previous plan",
        seconds=3,
    )


def _shown(plan: str, limits: Mapping[str, str], disk: str) -> str:
    cpu, memory, disk = (limit(one) or "unlimited" for one in (limits["limits.cpu"], limits["limits.memory"], disk))
    return f"{plan}: {cpu} CPUs, {memory} memory, {disk} disk"


def _lowers(memory: str, instance: Instance) -> bool:
    """Return whether a limit is below a container's present memory limit; none, or an unreadable one, is infinite."""

    def bytes_of(text: str) -> float:
        with suppress(LxdError):
            return size_bytes(text)
        return float("inf")

    return bytes_of(memory) < bytes_of(instance.config.get("limits.memory", ""))


def _give_way(host: Host, found: Tenant) -> None:
    """Delete files that nobody misses, where a disk is too full to even store a larger limit."""
    for path in NOBODY_MISSES:
        host.lxd.remove(found.instance, path)
    with suppress(LxdError):
        host.mautic.sync(found.instance)


def _until_it_is_counted(work: Callable[[], None]) -> None:
    """Retry until deleted files no longer count: a filesystem updates that every half minute."""
    give_up = time.monotonic() + COUNTED
    while True:
        try:
            return work()
        except PoolFull:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def _refuse_too_small(host: Host, found: Tenant, plan: str, size: PlanSize) -> None:
    """Raise Refused when the disk would be too small for its data, or how much that is cannot be measured."""
    instance = host.lxd.instance(found.instance)
    present = instance.devices.get("root", {}).get("size")
    if present and size_bytes(size.disk) >= size_bytes(present):
        return
    stays = f"so the smaller disk of {plan} is not possible"
    if not instance.running:
        raise Refused(
            f"The disk usage of `{found.name}` cannot be measured while the container is stopped, {stays}; "
            f"`/mautic start {found.name}` first."
        )
    disk = host.mautic.disk(found.instance, size, usage=host.lxd.state(found.instance).disk)
    used = disk.used
    if used is None:
        why = f" ({disk.why})" if disk.why else ""
        raise Refused(f"The disk usage of `{found.name}` cannot be measured on {found.host}{why}, {stays}.")
    if used > MARGIN * size_bytes(size.disk):
        raise Refused(
            f"`{found.name}` uses {in_words(used)} of disk, too much for the {in_words(size_bytes(size.disk))} of "
            f"{plan}, of which at most {MARGIN:.0%} may be in use."
        )


def plan_named(settings: Settings, name: str) -> PlanSize:
    """Return a plan's sizes, or raise UnknownWords with the nearest plan."""
    if name in settings.plans:
        return settings.plans[name]
    near = get_close_matches(name, settings.plans, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"available: {', '.join(settings.plans)}."
    raise UnknownWords(f"There is no plan “{name[:40]}”; {hint}")


@steps_of(resize)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Set the limits of LXD first, then the sizes inside the tenant."""
    found, plan, size = inputs.found, inputs.plan, inputs.size
    host = run.fleet.of(found)

    def give(name: str, limits: Mapping[str, str], disk: str, mark: Mapping[str, str]) -> None:
        # In one call: on a full disk LXD stores only a change that enlarges it.
        host.lxd.update(found.instance, {**mark, **as_labels(plan=name), **limits}, root(disk))

    def root(disk: str) -> dict[str, dict[str, str]]:
        size = {"size": disk} if disk else {}
        return {"root": {"type": "disk", "path": "/", "pool": run.settings.lxd.pool, **size}}

    def limits() -> None:
        if found.plan == plan:
            return
        # The data may have grown since the request, and LXD applies even a limit that it reports as refused.
        _refuse_too_small(host, found, plan, size)
        mark = as_labels(was_plan=found.plan, resized_by=run.operation)
        if _lowers(size.memory, host.lxd.instance(found.instance)):
            # MariaDB has to release memory before the limit shrinks.
            host.lxd.update(found.instance, mark)
            host.mautic.resize(found.instance, size)
        try:
            give(plan, size.limits(), size.disk, mark)
        except PoolFull:
            _give_way(host, found)
            _until_it_is_counted(lambda: give(plan, size.limits(), size.disk, mark))

    def inside() -> str | None:
        instance = host.lxd.instance(found.instance)
        if not instance.running:
            host.lxd.update(found.instance, as_labels(sizes_due=1))
            return f"{found.name} is stopped: run the same resize again after its start"
        host.mautic.resize(found.instance, size)
        if label_of(instance.config, "sizes-due"):
            host.lxd.update(found.instance, as_labels(sizes_due=""))
        return None

    def undo() -> str | None:
        """Give the container its previous limits again, but never a disk too small for the present data."""
        instance = host.lxd.instance(found.instance)
        was = label_of(instance.config, "was-plan")
        if label_of(instance.config, "resized-by") != str(run.operation):
            return None
        old, disk = inputs.limits, found.disk
        if not old and (known := run.settings.plans.get(was)):
            old, disk = known.limits(), known.disk
        if not old:
            if label_of(instance.config, "plan") == was:
                return None
            host.lxd.update(found.instance, as_labels(sizes_due=1))
            return f"{found.name} keeps the plan {plan}, as {was} is no longer in the settings"
        inner = inside_of(run.settings, was, old["limits.memory"])
        try:
            if disk:
                _refuse_too_small(host, found, was, replace(inner, disk=disk))
        except (Refused, LxdError):
            host.lxd.update(found.instance, as_labels(sizes_due=1))
            return f"{found.name} keeps the plan {plan}, as its data may not fit on the disk of {was}"
        lowers = _lowers(old["limits.memory"], instance)
        if instance.running and lowers:
            host.mautic.resize(found.instance, inner)
        give(was, old, disk, {})
        if instance.running and not lowers:
            host.mautic.resize(found.instance, inner)
        return None

    return Steps(
        (
            Step("limits", "Set the container's limits", limits),
            Step("inside", "Set the sizes of database, PHP and mail workers", inside),
        ),
        undo=undo,
    )
