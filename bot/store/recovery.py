"""Recovery: what a crash cut goes on; what failed or halted is tried again, taken back or given up by a person."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from bot.model.lanes import MANY
from bot.model.plan import Refused
from bot.model.text import line, sentence
from bot.store.operation import RESPONDERS, Operation
from bot.store.operations import Operations, TenantBusy

ANEW: Mapping[str, Any] = {
    "attempts": 0,
    "outcome": "",
    "error_id": "",
    "undo_by": "",
    "cause": "",
    "aftermath": "{}",
    "held_by": "",
    "started": None,
    "finished": None,
}
"""What an operation that is tried again forgets of the try before."""
MAX_ATTEMPTS = 5
"""Runs that a crash may cut before a person has to look."""


def recover(operations: Operations) -> list[Operation]:
    """After a start: put what a crash cut back in the queue; what was cut too often needs a person."""
    # A batch that has begun is in nobody's hands: its children are.
    recovered = operations.select("state = 'running' AND id NOT IN (SELECT operation FROM batches)", limit=MANY)
    for operation in recovered:
        capped = operation.attempts >= MAX_ATTEMPTS
        with operations.database.transaction() as transaction:
            if capped:
                operations.move(
                    transaction,
                    operation,
                    "needs_attention",
                    event="operation.needs_attention",
                    expect=("running",),
                    note=f":rotating_light: {RESPONDERS}The bot was cut off in this operation too often; the card "
                    "above says how it stands. Retry goes on with it.",
                    outcome=f"It was cut off {operation.attempts} times.",
                    undo_by="",
                )
            else:
                operations.move(transaction, operation, "queued", event="operation.requeued", expect=("running",))
    if recovered:
        operations.changed()
    return recovered


def retry(operations: Operations, operation: Operation, actor: str) -> None:
    """Queue a failed operation again under the approval that it has; its steps begin anew. Raises TenantBusy."""
    try:
        with operations.database.transaction() as transaction:
            moved = operations.move(
                transaction,
                operation,
                "queued",
                event="operation.retried",
                actor=actor,
                expect=("failed", "needs_attention"),
                note=f":arrows_counterclockwise: <@{actor}> tries it again.",
                **ANEW,
                # From now on it is what a person asked for, and no run tells of it.
                run=0,
            )
            if not moved:
                raise Refused(f"Operation {operation.id} has not failed, so there is nothing to try again.")
            begin_anew(operations, transaction, operation.id)
            if operation.parent:
                reopen(operations, transaction, operation.parent, actor)
    except sqlite3.IntegrityError as error:
        operations.refuse_if_busy(operation.tenant, but=operation.id)
        raise TenantBusy(f"`{operation.tenant}` was just taken by another request; try again.") from error
    operations.changed()


def begin_anew(operations: Operations, transaction: sqlite3.Connection, operation: int) -> None:
    """Let no step of an operation have happened: a retry looks at each again."""
    transaction.execute("UPDATE steps SET started = NULL, finished = NULL, note = '' WHERE operation = ?", (operation,))


def reopen(operations: Operations, transaction: sqlite3.Connection, batch: int, actor: str) -> None:
    """Let a batch that had failed go on, as one of its children is tried again; no effect on another."""
    (found,) = operations.select("id = ?", batch)
    operations.move(
        transaction,
        found,
        "running",
        event="batch.reopened",
        actor=actor,
        expect=("failed",),
        outcome="",
        finished=None,
    )


def undo(operations: Operations, operation: Operation, actor: str) -> None:
    """Queue an operation that needs attention to be taken back; what a retry or another undo won is refused."""
    with operations.database.transaction() as transaction:
        moved = operations.move(
            transaction,
            operation,
            "queued",
            event="operation.undo_asked",
            actor=actor,
            expect=("needs_attention",),
            attempts=0,
            undo_by=actor,
            finished=None,
        )
    if not moved:
        now = operations.get(operation.id).state.replace("_", " ")
        raise Refused(f"Operation {operation.id} is {now}; there is nothing to undo.")
    operations.changed()


def give_up(operations: Operations, operation: Operation, actor: str, reason: str, left: str = "") -> None:
    """End an operation that needs attention as it stands: nothing of it is done or taken back, the tenant is free.

    `left`: what is there of its tenant now, for its thread. What a retry or an undo won is refused.
    """
    with operations.database.transaction() as transaction:
        moved = operations.move(
            transaction,
            operation,
            "given_up",
            event="operation.given_up",
            actor=actor,
            expect=("needs_attention",),
            detail={"reason": reason, "outcome": operation.outcome},
            note=f":checkered_flag: <@{actor}> gave it up: {line(reason)}. "
            f"It stays as it stands. {sentence(left)}".strip(),
            undo_by="",
            ended_by=actor,
            reason=reason,
            finished=operations.clock(),
        )
    if not moved:
        now = operations.get(operation.id).state.replace("_", " ")
        raise Refused(f"Operation {operation.id} is {now}; only what needs attention can be given up.")
    operations.changed()
