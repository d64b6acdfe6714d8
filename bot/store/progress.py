"""Progress: records the start and end of each step of a running operation, and how the operation ended."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from bot.store import audit
from bot.store.operation import SYSTEM, Operation, State
from bot.store.operations import Operations


def step_started(operations: Operations, operation: Operation, position: int, inputs: str = "") -> None:
    """Record that a step begins, once; with the first step also the `inputs` of all steps, as JSON or ""."""
    now = operations.clock()
    with operations.database.transaction() as transaction:
        done = transaction.execute(
            "UPDATE steps SET started = ? WHERE operation = ? AND position = ? AND started IS NULL",
            (now, operation.id, position),
        )
        if done.rowcount:
            if inputs:
                transaction.execute(
                    "UPDATE operations SET plan = json_set(plan, '$.inputs', json(?)) WHERE id = ? AND NOT begun",
                    (inputs, operation.id),
                )
            transaction.execute("UPDATE operations SET begun = 1 WHERE id = ?", (operation.id,))
            _step_event(operations, transaction, operation, position, "step.started", {}, now)
    operations.changed()


def step_finished(operations: Operations, operation: Operation, position: int, note: str) -> None:
    """Record that a step is done, once."""
    now = operations.clock()
    with operations.database.transaction() as transaction:
        done = transaction.execute(
            "UPDATE steps SET finished = ?, note = ? WHERE operation = ? AND position = ? AND finished IS NULL",
            (now, note, operation.id, position),
        )
        if done.rowcount:
            _step_event(operations, transaction, operation, position, "step.finished", {"note": note}, now)
            if operation.steps[position].key == operation.plan.get("commit"):
                transaction.execute("UPDATE operations SET committed = 1 WHERE id = ?", (operation.id,))
            transaction.execute(
                "INSERT INTO snapshots_of_tenants (at, tenant) SELECT ?, ? FROM steps"
                " WHERE operation = ? AND position = ? AND takes_snapshot",
                (now, operation.tenant, operation.id, position),
            )
    operations.changed()


def switched(operations: Operations, operation: Operation, since: float | None = None) -> float:
    """Return when the step before the commit point, which opens a candidate, first began (epoch seconds); 0: never.

    `since`: counted from this moment on; None: since the operation was last rolled back. The audit log tells: a retry
    resets when steps began, and a kill may have interrupted the step.
    """
    keys = [step.key for step in operation.steps]
    commit = operation.plan.get("commit")
    if commit not in keys[1:]:
        return 0.0
    of_operation = "FROM audit WHERE tenant = ? AND operation = ?"
    mine: tuple[object, ...] = (operation.tenant, operation.id)
    if since is None:
        counted = f"seq > (SELECT ifnull(max(seq), 0) {of_operation} AND event = 'operation.failed')"
        values = mine
    else:
        counted, values = "at >= ?", (since,)
    rows = operations.database.read(
        f"SELECT min(at) AS at {of_operation} AND event = 'step.started' AND {counted}"
        " AND json_extract(detail, '$.key') = ?",
        *mine,
        *values,
        keys[keys.index(commit) - 1],
    )
    return float(rows[0]["at"] or 0)


def _step_event(
    operations: Operations,
    transaction: sqlite3.Connection,
    operation: Operation,
    position: int,
    name: str,
    detail: Mapping[str, object],
    now: float,
) -> None:
    transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (operation.id,))
    step = operation.steps[position]
    if operation.run:
        return
    event = audit.Event(name, SYSTEM, operation.tenant, operation.id, {"key": step.key, "step": step.title, **detail})
    audit.record(transaction, event, now)


def failing(operations: Operations, operation: Operation, why: str, error_id: str) -> None:
    """Record that a step failed, before the rollback: after a crash the steps must not continue."""
    with operations.database.transaction() as transaction:
        operations.move(
            transaction,
            operation,
            "running",
            event="operation.failing",
            expect=("running",),
            detail={"why": why, "error_id": error_id} if error_id else {"why": why},
            undo_by=SYSTEM,
            outcome=why,
            cause=why,
            error_id=error_id,
        )
    operations.changed()


def finish(
    operations: Operations,
    operation: Operation,
    state: State,
    *,
    outcome: str,
    note: str = "",
    error_id: str = "",
    event: str = "",
    actor: str = SYSTEM,
    undo_by: str = "",
    aftermath: Mapping[str, object] | None = None,
    cause: str = "",
) -> None:
    """End a running operation, with its outcome (a sentence) and a note for the thread.

    `undo_by`: for whom it is rolled back as soon as possible. `cause`: why its step failed, kept until then.
    """
    begun = operation.begun if state == "needs_attention" else 0
    with operations.database.transaction() as transaction:
        operations.move(
            transaction,
            operation,
            state,
            event=event or f"operation.{state}",
            actor=actor,
            expect=("running",),
            detail={"outcome": outcome, "error_id": error_id} if error_id else {"outcome": outcome},
            note=note,
            outcome=outcome,
            error_id=error_id,
            undo_by=undo_by,
            begun=begun,
            ended_by=actor if state == "cancelled" else "",
            aftermath=json.dumps(dict(aftermath or {})),
            cause=cause,
            finished=operations.clock(),
        )
    operations.changed()
