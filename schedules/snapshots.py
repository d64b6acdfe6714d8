"""Takes the snapshots that are due, and has those removed that the policy does not keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

from bot.engine.context import Context
from bot.engine.errands import Errands
from bot.engine.scheduler import schedule
from bot.engine.snapshots import counted, is_short, let_go_on, oldest, pruning, retention, taking, written
from bot.fleet.inventory import Surveyed
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.plan import Refused
from bot.model.tenants import Tenant
from bot.store import samples

AT_ONCE = 3
"""Tenants of a host of which the oldest goes in one look, where the pool is short: room shows a little later."""


@schedule(seconds=60)
def snapshots(context: Context) -> None:
    """Take each tenant's snapshots when they are due, and remove those that the policy does not keep.

    Where a host's pool is short of room, or a tenant's snapshots hold more than they may, none is taken and the oldest
    go.

    Decided from the snapshots that there are, which one request a server tells.
    """
    survey = context.fleet.survey()
    errands, now = Errands(context), context.now()

    @cache
    def short(host: str) -> bool:
        """No snapshot takes the room that all on a host need to go on. Of one that does not tell nothing is known."""
        try:
            return is_short(context, context.fleet.host(host).lxd.pool())
        except (LxdError, Refused):
            return False

    for one in survey.tenants:
        # The bot, or their server, died in the middle of a snapshot.
        if one.state.status == "Frozen" and errands.may(one.tenant.name, passes=True):
            let_go_on(context.fleet.of(one.tenant).lxd, one.tenant.instance)
    held = samples.snapshots(context.database)

    def too_much(tenant: Tenant) -> int:
        """Bytes that a tenant's snapshots held more than they may, when they were measured last."""
        known, most = held.get(tenant.name), context.settings.snapshots_allowed(tenant.plan)
        return max(0, known.held - most) if known and most and known.at >= tenant.created else 0

    seen = [
        (one.tenant, retention(context, one.tenant.name), counted(context, one.snapshots)) for one in survey.tenants
    ]
    # Who has waited longest comes first, so that a big fleet has its turn as a whole.
    for tenant, rule, points in sorted(seen, key=lambda one: max((point.at for point in one[2]), default=0)):
        due = errands.may(tenant.name, passes=True) and rule.due(points, now) and not too_much(tenant)
        if due and not short(tenant.host):
            # Who freezes a tenant wants to come back to it: its snapshots go on.
            errands.ask("snapshot", taking(context, tenant), safety=True, host=tenant.host)
    _make_room(context, errands, survey.tenants, too_much, short)
    # What is surplus can wait: one errand takes away all that has come together. By a calendar that was just set,
    # days and months may seem to be over that are not.
    for tenant, rule, points in (
        sorted(seen, key=lambda one: len(one[2]), reverse=True) if context.lived.is_steady() else ()
    ):
        if errands.may(tenant.name) and (surplus := rule.surplus(points, now)):
            names = [one.name for one in surplus]
            plan = pruning(tenant, names, f"the policy keeps {rule.counts}")
            errands.ask("prune", plan, host=tenant.host)
    for why in survey.silent.values():
        raise LxdUnavailable(why)


def _make_room(
    context: Context,
    errands: Errands,
    tenants: Iterable[Surveyed],
    too_much: Callable[[Tenant], int],
    short: Callable[[str], bool],
) -> None:
    """Have the oldest snapshots removed of who has too much in them, and where the pool is short of a few at a time.

    Who writes most anew comes first: what its snapshots share hides what they hold.
    """
    chosen: Counter[str] = Counter()
    for one in sorted(tenants, key=lambda one: written(one.snapshots), reverse=True):
        tenant, there, excess = one.tenant, one.snapshots, too_much(one.tenant)
        if not errands.may(tenant.name) or not (excess or (chosen[tenant.host] < AT_ONCE and short(tenant.host))):
            continue
        if excess:
            try:
                there = tuple(context.fleet.of(tenant).lxd.snapshots(tenant.instance))
            except LxdError:
                continue
            # Somebody may have removed some on the server itself.
            samples.note_snapshots(context.database, tenant.name, context.now(), [one.size for one in there])
        if names := oldest(context, there, excess):
            why = "they hold more than its plan allows" if excess else f"the pool of {tenant.host} has no room to spare"
            # Where there is no room none is taken any more: a freeze is not to end the snapshots.
            errands.ask("prune", pruning(tenant, names, why), safety=True)
            chosen[tenant.host] += 1
