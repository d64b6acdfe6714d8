"""Takes the snapshots that are due, and deletes those that the policy does not keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

from bot.engine.context import Context
from bot.engine.maintenance import Maintenance
from bot.engine.scheduler import schedule
from bot.engine.snapshots import counted, is_short, let_go_on, oldest, pruning, retention, taking, written
from bot.fleet.inventory import TenantEntry
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.plan import Refused
from bot.model.tenants import Tenant
from bot.store import metrics

AT_ONCE = 3
"""Tenants per host that lose their oldest snapshot in one run, where the pool is short: freed space shows later."""


@schedule(seconds=60)
def snapshots(context: Context) -> None:
    """Take each tenant's snapshots when due, and delete those that the policy does not keep.

    Where a host's pool is short of free space, or a tenant's snapshots hold more than allowed, none is taken and the
    oldest are deleted.

    Decided from the existing snapshots, read with one request a server.
    """
    inventory = context.fleet.full_inventory()
    maintenance, now = Maintenance(context), context.now()

    @cache
    def short(host: str) -> bool:
        """Return whether the pool is too full for snapshots; a host that does not answer counts as not full."""
        try:
            return is_short(context, context.fleet.host(host).lxd.pool())
        except (LxdError, Refused):
            return False

    for one in inventory.tenants:
        # A tenant is left frozen if the bot or the server died during its snapshot.
        if one.state.status == "Frozen" and maintenance.may(one.tenant.name, passes=True):
            let_go_on(context.fleet.of(one.tenant).lxd, one.tenant.instance)
    held = metrics.snapshots(context.database)

    def too_much(tenant: Tenant) -> int:
        """Return the bytes by which a tenant's snapshots exceeded the allowance, when last measured."""
        known, most = held.get(tenant.name), context.settings.snapshots_allowed(tenant.plan)
        return max(0, known.held - most) if known and most and tenant.is_about(known.at, now) else 0

    seen = [
        (one.tenant, retention(context, one.tenant.name), counted(context, one.snapshots)) for one in inventory.tenants
    ]
    # The tenant that has waited longest comes first, so that all of a big fleet have their turn.
    for tenant, rule, points in sorted(seen, key=lambda one: max((point.at for point in one[2]), default=0)):
        due = maintenance.may(tenant.name, passes=True) and rule.due(points, now) and not too_much(tenant)
        if due and not short(tenant.host):
            # Snapshots continue in a freeze: they are what one can return to.
            maintenance.ask("snapshot", taking(context, tenant), safety=True, host=tenant.host)
    _make_space(context, maintenance, inventory.tenants, too_much, short)
    # Surplus snapshots can wait: one operation deletes all at once. Just after the clock was set, days and months may
    # only seem to have passed.
    for tenant, rule, points in (
        sorted(seen, key=lambda one: len(one[2]), reverse=True) if context.uptime.is_steady() else ()
    ):
        if maintenance.may(tenant.name) and (surplus := rule.surplus(points, now)):
            names = [one.name for one in surplus]
            plan = pruning(tenant, names, f"the policy keeps {rule.counts}")
            maintenance.ask("prune", plan, host=tenant.host)
    for why in inventory.silent.values():
        raise LxdUnavailable(why)


def _make_space(
    context: Context,
    maintenance: Maintenance,
    tenants: Iterable[TenantEntry],
    too_much: Callable[[Tenant], int],
    short: Callable[[str], bool],
) -> None:
    """Delete the oldest snapshots of tenants above their allowance, and on a short pool of a few tenants at a time.

    The tenant that writes most comes first: data that its snapshots share hides how much they hold.
    """
    chosen: Counter[str] = Counter()
    for one in sorted(tenants, key=lambda one: written(one.snapshots), reverse=True):
        tenant, there, excess = one.tenant, one.snapshots, too_much(one.tenant)
        if not maintenance.may(tenant.name) or not (excess or (chosen[tenant.host] < AT_ONCE and short(tenant.host))):
            continue
        if excess:
            try:
                there = tuple(context.fleet.of(tenant).lxd.snapshots(tenant.instance))
            except LxdError:
                continue
            # Somebody may have deleted snapshots on the server itself.
            metrics.note_snapshots(context.database, tenant.name, context.now(), [one.size for one in there])
        if names := oldest(context, there, excess):
            why = (
                "they hold more than the plan allows" if excess else f"the pool of {tenant.host} is short of free space"
            )
            # Without free space no snapshot is taken: a freeze must not cause that.
            maintenance.ask("prune", pruning(tenant, names, why), safety=True)
            chosen[tenant.host] += 1
