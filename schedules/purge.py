"""Removes for good what was kept of tenants for the policy's days."""

from __future__ import annotations

from typing import cast

from bot.errands import Errands
from bot.lxd import LxdError, LxdUnavailable
from bot.plan import Plan, Refused
from bot.registry import Context, call
from bot.scheduler import schedule
from bot.tenants import Tenant

DAY = 86_400


@schedule(seconds=300)
def purge(context: Context) -> None:
    """Remove archives and replaced containers when their days are over, and what a restore or migration left behind."""
    look = context.fleet.look("archived", "former", "incoming")
    errands = Errands(context)
    command = context.registry.command("purge")
    trouble: list[Exception] = [LxdUnavailable(why) for why in look.silent.values()]
    for one in look.tenants:
        if _is_over(context, one) and errands.may(one.name, "purge"):
            try:
                plan = call(command, context, {"tenant": one.name, "container": one.instance})
                errands.ask("purge", cast(Plan, plan))
            except (Refused, LxdError) as error:
                trouble.append(error)
    if trouble:
        raise trouble[-1]


def _is_over(context: Context, one: Tenant) -> bool:
    if one.role == "incoming":
        # Its host was out of reach when its operation came to nothing.
        return not any(operation.open for operation in context.operations.select("id = ?", one.operation))
    if one.role == "archived":
        return bool(one.archived) and context.now() >= one.archived + context.settings.retention.archive_days * DAY
    return bool(one.kept_until) and context.now() >= one.kept_until
