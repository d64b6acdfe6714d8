"""Handles a database restored from a backup: it lacks what happened since, so nothing in it continues by itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bot.model.lanes import MANY
from bot.model.text import code
from bot.store import audit
from bot.store.database import Database
from bot.store.operation import RESPONDERS, SYSTEM, Operation
from bot.store.operations import Operations

HEAD = "audit.head"
"""The file beside the database with the newest head of the audit log; a restore of the database does not touch it."""
_WHY = "The bot's database was restored from a backup"
_BATCH = "id IN (SELECT operation FROM batches)"


def keep_head(database: Database, folder: Path) -> None:
    """Write the head of the audit log to the file `HEAD`."""
    head, path = audit.newest(database), folder / HEAD
    if not path.exists() or path.read_text() != head:
        part = path.with_suffix(".part")
        part.write_text(head)
        part.replace(path)


def kept_head(folder: Path) -> list[str]:
    """Return the head in the file `HEAD`; an empty list if there is no file."""
    path = folder / HEAD
    return [path.read_text()] if path.exists() else []


def goes_on(operations: Operations) -> bool:
    """Whether any operation waits, runs, or is to be rolled back by the bot."""
    return bool(
        operations.database.read(
            "SELECT 1 FROM operations WHERE state IN ('awaiting_approval', 'queued', 'running')"
            " OR state = 'needs_attention' AND undo_by <> '' LIMIT 1"
        )
    )


def hold(operations: Operations, head: tuple[int, str]) -> bool:
    """Cancel what waits, leave what had begun to a person, and pause batches; return False if that was done before.

    Requests that were cancelled or denied after the backup wait again in the restored database, while their cards in
    Slack say otherwise; operations in progress have ended since, and other changes have followed them.

    Args:
        head: the newest known audit row that the database lacks, and the first characters of its hash. It identifies
            the restore.
    """
    known = "SELECT 1 FROM audit WHERE event = 'database.restored' AND json_extract(detail, '$.head') = ? LIMIT 1"
    if operations.database.read(known, head[1]):
        return False
    with operations.database.transaction() as transaction:
        event = audit.Event("database.restored", SYSTEM, detail={"row": head[0], "head": head[1]})
        audit.record(transaction, event, operations.clock())
        under_way = f"state IN ('awaiting_approval', 'queued', 'running') AND NOT (state = 'running' AND {_BATCH})"
        for operation in operations.select(under_way, limit=MANY):
            touched = operation.begun or operation.undo_by or operation.state == "running"
            # The bot requests its own maintenance again when it is due.
            if touched and operation.requester != SYSTEM:
                _leave(operations, transaction, operation)
            else:
                _cancel(operations, transaction, operation)
        # Nor does the bot roll anything back by itself once a silent host answers.
        transaction.execute("UPDATE operations SET undo_by = '' WHERE state = 'needs_attention'")
        for batch in operations.select(f"state = 'running' AND {_BATCH}", limit=MANY):
            _pause(operations, transaction, batch)
    operations.changed()
    return True


def _cancel(operations: Operations, transaction: sqlite3.Connection, operation: Operation) -> None:
    unchanged = "" if operation.begun else "Nothing was changed. "
    again = f"{unchanged}Request again: {code('/mautic ' + operation.again_at(operations.clock()))}"
    operations.move(
        transaction,
        operation,
        "cancelled",
        event="operation.cancelled",
        expect=(operation.state,),
        detail={"why": "database restored"},
        note=f":hourglass: <@{operation.requester}>, cancelled: the bot's database was restored from a backup, so what "
        f"was decided since then is not known. {again}",
        outcome=_WHY,
        finished=operations.clock(),
        ended_by=SYSTEM,
        begun=0,
    )


def _leave(operations: Operations, transaction: sqlite3.Connection, operation: Operation) -> None:
    operations.move(
        transaction,
        operation,
        "needs_attention",
        event="operation.needs_attention",
        expect=(operation.state,),
        detail={"why": "database restored"},
        note=f":rotating_light: {RESPONDERS}the bot's database was restored from a backup that was made during this "
        f"request. Compare {code('/mautic status ' + operation.tenant)} with what you know: Retry and Undo go on from "
        "the backup, over whatever came later. If it had ended since, "
        f"{code(f'/mautic give-up {operation.id} because <reason>')} leaves everything as it is.",
        outcome=f"{_WHY} that was made during this request.",
        undo_by="",
    )


def _pause(operations: Operations, transaction: sqlite3.Connection, batch: Operation) -> None:
    held = transaction.execute(
        "UPDATE batches SET paused = ?, paused_by = ? WHERE operation = ? AND paused IS NULL AND stopped IS NULL",
        (operations.clock(), SYSTEM, batch.id),
    )
    if held.rowcount:
        transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (batch.id,))
        told = (
            ":double_vertical_bar: Paused: the bot's database was restored from a backup. Check which tenants are done "
            "before you tap Continue."
        )
        operations.note(transaction, batch.id, told)
        audit.record(transaction, audit.Event("batch.paused", SYSTEM, batch.tenant, batch.id), operations.clock())
