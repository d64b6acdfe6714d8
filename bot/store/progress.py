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


def first_began(operations: Operations, operation: Operation, key: str, since: float) -> float:
    """Return when a step of an operation first began since a moment, in any attempt (epoch seconds); 0: it did not."""
    rows = operations.database.read(
        "SELECT min(at) AS at FROM audit WHERE tenant = ? AND operation = ? AND event = 'step.started' AND at >= ?"
        " AND json_extract(detail, '$.key') = ?",
        operation.tenant,
        operation.id,
        since,
        key,
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
