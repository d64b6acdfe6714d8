"""Removes for good what was kept of tenants for the policy's days."""

from __future__ import annotations

from typing import cast

from bot import audit
from bot.errands import Errands
from bot.fleet import Look
from bot.lxd import LxdError, LxdUnavailable
from bot.operations import SYSTEM
from bot.plan import Plan, Refused
from bot.registry import Context, call
from bot.scheduler import schedule
from bot.snapshots import ours
from bot.succession import retire
from bot.tenants import Tenant

DAY = 86_400


@schedule(seconds=300)
def purge(context: Context) -> None:
    """Remove archives and replaced containers when their days are over, and what a restore or migration left behind.

    What was replaced while its host was out of reach is kept from now on.
    """
    look = context.fleet.look("tenant", "archived", "former", "incoming")
    errands = Errands(context)
    command = context.registry.command("purge")
    trouble: list[Exception] = [LxdUnavailable(why) for why in look.silent.values()]
    for one in look.tenants:
        try:
            if (one.role, one.state) == ("former", "moving"):
                _retire(context, one)
            elif errands.may(one.name, passes=one.role == "incoming") and _is_over(context, look, one):
                plan = call(command, context, {"tenant": one.name, "container": one.instance})
                errands.ask("purge", cast(Plan, plan))
        except (Refused, LxdError) as error:
            trouble.append(error)
    if trouble:
        raise trouble[-1]


def _retire(context: Context, one: Tenant) -> None:
    event = audit.Event("container.retired", SYSTEM, one.name, detail={"container": one.instance, "host": one.host})
    with context.database.transaction() as transaction:
        audit.record(transaction, event, context.now())
    retire(context, one, one.reason)


def _is_over(context: Context, look: Look, one: Tenant) -> bool:
    if one.role == "incoming":
        return _is_left_over(context, look, one)
    if one.role == "archived":
        days = context.settings.retention.archive_days
        return bool(days and one.archived) and context.now() >= one.archived + days * DAY
    over = one.role == "former" and bool(one.kept_until) and context.now() >= one.kept_until
    return over and not _has_kept(context, one)


def _has_kept(context: Context, former: Tenant) -> bool:
    """Whether it has a snapshot that stays until somebody removes it; a move takes those along, a restore does not."""
    if not former.reason.startswith("restore"):
        return False
    return any(one.keep for one in ours(context.fleet.of(former).lxd.snapshots(former.instance)))


def _is_left_over(context: Context, look: Look, one: Tenant) -> bool:
    """Whether an operation has come to nothing that made it; its host was out of reach when that was taken back.

    The database may be lost, or of yesterday, and the heir all that serves: what else there is of the tenant counts.
    """
    made_by = context.operations.select("id = ?", one.operation)
    others = [it for it in look.tenants if it.name == one.name and it.role in ("tenant", "archived")]
    if any(operation.open for operation in made_by) or any(it.state == "moving" for it in others):
        return False
    if not made_by or (look.silent and not others):
        return any(it.state == "live" and it.status == "Running" for it in others)
    return True
