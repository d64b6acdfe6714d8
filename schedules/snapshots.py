"""Takes the snapshots that are due, and has those removed that the policy does not keep."""

from __future__ import annotations

from bot.errands import Errands
from bot.fleet import Surveyed
from bot.lxd import LxdUnavailable
from bot.registry import Context
from bot.scheduler import schedule
from bot.snapshots import counted, pruning, retention, taking


@schedule(seconds=60)
def snapshots(context: Context) -> None:
    """Take each tenant's snapshots when they are due, and remove those that the policy does not keep.

    Decided from the snapshots that there are, which one request a server tells.
    """
    survey = context.fleet.survey()
    errands = Errands(context)
    for seen in survey.tenants:
        if errands.may(seen.tenant.name):
            _look_after(context, errands, seen)
    for why in survey.silent.values():
        raise LxdUnavailable(why)


def _look_after(context: Context, errands: Errands, seen: Surveyed) -> None:
    points, now = counted(context, seen.snapshots), context.now()
    rule = retention(context, seen.tenant.name)
    if rule.due(points, now):
        errands.ask("snapshot", taking(context, seen.tenant))
    elif surplus := rule.surplus(points, now):
        names = [one.name for one in surplus]
        errands.ask("prune", pruning(context, seen.tenant, names, f"the policy keeps {rule.counts}"))
