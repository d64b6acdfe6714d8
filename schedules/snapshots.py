"""Takes the snapshots that are due, and has those removed that the policy does not keep."""

from __future__ import annotations

from functools import cache

from bot.errands import Errands
from bot.lxd import LxdUnavailable
from bot.placement import strained
from bot.registry import Context
from bot.scheduler import schedule
from bot.snapshots import counted, pruning, retention, taking


@schedule(seconds=60)
def snapshots(context: Context) -> None:
    """Take each tenant's snapshots when they are due, and remove those that the policy does not keep.

    Decided from the snapshots that there are, which one request a server tells.
    """
    survey = context.fleet.survey()
    errands, now = Errands(context), context.now()

    @cache
    def in_distress(host: str) -> bool:
        """What can wait does not add to it."""
        return bool(strained(context, host))

    seen = [
        (one.tenant, retention(context, one.tenant.name), counted(context, one.snapshots)) for one in survey.tenants
    ]
    # Who has waited longest comes first, so that a big fleet has its turn as a whole.
    for tenant, rule, points in sorted(seen, key=lambda one: max((point.at for point in one[2]), default=0)):
        if errands.may(tenant.name, passes=True) and rule.due(points, now) and not in_distress(tenant.host):
            errands.ask("snapshot", taking(context, tenant))
    # What is surplus can wait: one errand takes away all that has come together. By a calendar that was just set,
    # days and months may seem to be over that are not.
    for tenant, rule, points in (
        sorted(seen, key=lambda one: len(one[2]), reverse=True) if context.lived.is_steady() else ()
    ):
        if errands.may(tenant.name) and (surplus := rule.surplus(points, now)) and not in_distress(tenant.host):
            names = [one.name for one in surplus]
            errands.ask("prune", pruning(context, tenant, names, f"the policy keeps {rule.counts}"))
    for why in survey.silent.values():
        raise LxdUnavailable(why)
