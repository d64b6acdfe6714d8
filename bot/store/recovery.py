"""Recovery: operations continue after a crash; a person retries, rolls back or gives up those that failed."""

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
"""The columns that a retry resets."""
MAX_ATTEMPTS = 5
"""Runs that a crash may interrupt before a person has to look."""


def recover(operations: Operations) -> list[Operation]:
    """After a start: queue again what a crash interrupted; leave to a person what was interrupted too often."""
    # No worker runs a batch itself, only its children.
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
                    note=f":rotating_light: {RESPONDERS}This request was interrupted {operation.attempts} times by a "
                    "crash or restart of the bot; see the card above. Retry continues the request.",
                    outcome=f"Interrupted {operation.attempts} times by a crash or restart of the bot.",
                    undo_by="",
                )
            else:
                # Nothing is half done yet, so it is not continued at another time of day than it was planned for.
                planned = operation.at and not operation.begun
                columns: dict[str, Any] = {"held_by": "time", "started": None} if planned else {}
                operations.move(
                    transaction, operation, "queued", event="operation.requeued", expect=("running",), **columns
                )
    if recovered:
        operations.changed()
    return recovered


def retry(operations: Operations, operation: Operation, actor: str) -> None:
    """Queue a failed operation again under its approval; its steps start again. Raises Refused or TenantBusy."""
    try:
        with operations.database.transaction() as transaction:
            moved = operations.move(
                transaction,
                operation,
                "queued",
                event="operation.retried",
                actor=actor,
                expect=("failed", "needs_attention"),
                note=f":arrows_counterclockwise: Retried by <@{actor}>.",
                **ANEW,
                # From now on it is a person's request, not part of a run of maintenance.
                run=0,
            )
            if not moved:
                raise Refused(f"{operation.headed} has not failed, so there is nothing to retry.")
            reset_steps(operations, transaction, operation.id)
            if operation.parent:
                reopen(operations, transaction, operation.parent, actor)
    except sqlite3.IntegrityError as error:
        operations.refuse_if_busy(operation.tenant, but=operation.id)
        raise TenantBusy(f"Another request just locked `{operation.tenant}`. Try again.") from error
    operations.changed()


def reset_steps(operations: Operations, transaction: sqlite3.Connection, operation: int) -> None:
    """Reset the steps of an operation: a retry checks each again."""
    transaction.execute("UPDATE steps SET started = NULL, finished = NULL, note = '' WHERE operation = ?", (operation,))


def reopen(operations: Operations, transaction: sqlite3.Connection, batch: int, actor: str) -> None:
    """Continue a failed batch, because children of it are retried; do nothing to one that has not failed."""
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
    """Queue an operation that needs attention for its rollback; raise Refused if a retry or undo was quicker."""
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
        now = operations.get(operation.id).standing
        raise Refused(f"{operation.headed} {now}, so there is nothing to roll back.")
    operations.changed()


def give_up(operations: Operations, operation: Operation, actor: str, reason: str, left: str = "") -> None:
    """End an operation that needs attention as it is, without a rollback, and unlock the tenant.

    `left`: the present state of its tenant, for its thread. Raises Refused if a retry or undo was quicker.
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
            note=f":checkered_flag: Given up by <@{actor}>: {line(reason)}. "
            f"Nothing was rolled back. {sentence(left)}".strip(),
            undo_by="",
            ended_by=actor,
            reason=reason,
            finished=operations.clock(),
        )
    if not moved:
        now = operations.get(operation.id).standing
        raise Refused(f"{operation.headed} {now}. Only a request that needs action can be given up.")
    operations.changed()
