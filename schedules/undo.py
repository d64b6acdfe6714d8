"""Rolls back operations that could not be rolled back while a host was out of reach."""

from __future__ import annotations

from collections.abc import Collection

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.labels import Role, is_open
from bot.store import recovery
from bot.store.operation import SYSTEM, Operation


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
        if operation.tenant not in opened and not _may_be_on(context, operation, seen.silent):
            recovery.undo(context.operations, operation, SYSTEM)


def _may_be_on(context: Context, operation: Operation, silent: Collection[str]) -> bool:
    """Return whether a server that does not answer may have a container of the operation."""
    inputs = operation.plan.get("inputs") or {}
    places = [inputs[name] for name in ("old", "found", "target") if isinstance(inputs.get(name), dict)]
    # Earlier releases stored no inputs: the container may be anywhere.
    return bool({place["server"] for place in places} & {*silent} if places else silent)
