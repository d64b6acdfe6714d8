"""Handles a database restored from a backup: it lacks what happened since, so nothing in it continues by itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bot.model.lanes import MANY
from bot.model.plan import Refused
from bot.model.text import code
from bot.store import audit
from bot.store.database import Database
from bot.store.freezes import EVERYTHING, Freezes
from bot.store.operation import RESPONDERS, SYSTEM, Operation
from bot.store.operations import Operations

HEAD = "audit.head"
"""The file beside the database with the newest head of the audit log; a restore of the database does not touch it."""
HEADS = 1000
"""Missing heads that are recorded at most."""
REASON = (
    "its database was restored from a backup: check which freezes and paused jobs are missing now "
    "(/mautic schedule list)"
)
"""Why the bot freezes all tenants."""
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


@dataclass(frozen=True)
class Restore:
    """A restore that was recognised, at `at` (epoch seconds).

    `row`, `head`: the newest audit row that the database lacked, and the first characters of its hash. `heads`: those
    of all heads that it lacked.
    """

    at: float
    row: int
    head: str
    heads: Sequence[str] = ()


def restores(database: Database, since: float = 0.0) -> list[Restore]:
    """Return the restores that were recognised since then (epoch seconds), the latest first."""
    told = "SELECT at, detail FROM audit WHERE event = 'database.restored' AND at >= ? ORDER BY seq DESC"
    rows = database.read(told, since)
    return [Restore(row["at"], **json.loads(row["detail"])) for row in rows]


def hold(operations: Operations, lost: Sequence[tuple[int, str]], *, working: bool = False) -> bool:
    """Cancel what waits, leave what had begun to a person, pause batches and freeze all tenants.

    Requests that were cancelled or denied after the backup wait again in the restored database, while their cards in
    Slack say otherwise; operations in progress have ended since, and other changes have followed them. Freezes that
    began since are gone, and jobs that were paused since run again: only people know which.

    Args:
        lost: the audit rows that the database lacks as far as is known, each with the first characters of its hash.
            They identify the restore.
        working: operations in progress have a worker, so they go on.

    Returns:
        False if that was done before: of these rows, none is new.
    """
    known = {head for one in restores(operations.database) for head in (one.head, *one.heads)}
    new = [one for one in lost if one[1] not in known]
    if not new:
        return False
    # First, so that it is made up for if the bot dies in between. It may be frozen for as long already.
    with suppress(Refused):
        Freezes(operations).begin(EVERYTHING, SYSTEM, REASON, None)
    with operations.database.transaction() as transaction:
        row, head = max(new)
        detail = {"row": row, "head": head, "heads": [begin for _, begin in new[:HEADS]]}
        audit.record(transaction, audit.Event("database.restored", SYSTEM, detail=detail), operations.clock())
        waits = "'awaiting_approval', 'queued'" + ("" if working else ", 'running'")
        under_way = f"state IN ({waits}) AND NOT (state = 'running' AND {_BATCH})"
        for operation in operations.select(under_way, limit=MANY):
            touched = operation.begun or operation.undo_by or operation.state == "running"
            # The bot requests its own maintenance again when it is due.
            if touched and operation.requester != SYSTEM:
                _leave(operations, transaction, operation)
            else:
                _cancel(operations, transaction, operation)
        # Nor does the bot roll anything back by itself once a silent host answers. Each card gets a head of this log.
        transaction.execute(
            "UPDATE operations SET undo_by = '', revision = revision + 1 WHERE state = 'needs_attention'"
        )
        for operation in operations.select(f"state = 'running' AND NOT {_BATCH}", limit=MANY):
            _tell(operations, transaction, operation)
        for batch in operations.select(f"state = 'running' AND {_BATCH}", limit=MANY):
            _pause(operations, transaction, batch)
    operations.changed()
    return True


def _cancel(operations: Operations, transaction: sqlite3.Connection, operation: Operation) -> None:
    unchanged = "" if operation.begun else "Nothing was changed. "
    again = code(f"/mautic {operation.again_at(operations.clock())}")
    afterwards = f"{unchanged}After the freeze of all tenants, request again: {again}"
    operations.move(
        transaction,
        operation,
        "cancelled",
        event="operation.cancelled",
        expect=(operation.state,),
        detail={"why": "database restored"},
        note=f":hourglass: <@{operation.requester}>, cancelled: the bot's database was restored from a backup, so what "
        f"was decided since then is not known. {afterwards}",
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


def _tell(operations: Operations, transaction: sqlite3.Connection, operation: Operation) -> None:
    told = (
        f":rotating_light: {RESPONDERS}the bot's database was restored from a backup, and this request is in progress. "
        "It goes on, over whatever came after the backup: compare "
        f"{code('/mautic status ' + operation.tenant)} with what you know."
    )
    operations.note(transaction, operation.id, told)


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
