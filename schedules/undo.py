"""Rolls back operations that could not be rolled back while a host was out of reach."""

from __future__ import annotations

from bot.engine.attention import may_be_on
from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.labels import Role, is_open
from bot.store import recovery
from bot.store.operation import SYSTEM


@schedule(seconds=60)
def undo(context: Context) -> None:
    """Finish rollbacks of failed operations, once an unreachable host answers again.

    Where a candidate is open, clients may have written to it: a person has to decide.
    """
    waiting = context.operations.select("state = 'needs_attention' AND undo_by = ?", SYSTEM)
    seen = context.fleet.inventory(Role.INCOMING) if waiting else None
    if seen is None:
        return
    opened = {one.name for one in seen.tenants if is_open(one)}
    for operation in waiting:
        if operation.tenant not in opened and not may_be_on(operation, seen.silent):
            recovery.undo(context.operations, operation, SYSTEM)
