"""What rehearsals of upgrades found: kept until it is old, and found again by tenant and version."""

from __future__ import annotations

import sqlite3

from bot.model.evidence import Evidence
from bot.store.database import Database


def add(database: Database, found: Evidence, *, offer: bool) -> None:
    """Keep what a rehearsal found; once more for the same operation replaces it.

    `offer`: the upgrade is requested once it has passed.
    """
    with database.transaction() as transaction:
        transaction.execute(
            "INSERT OR REPLACE INTO evidence (operation, tenant, version, at, passed, found, offer)"
            " VALUES (?,?,?,?,?,?,?)",
            (found.operation, found.tenant, found.version, found.at, found.passed, found.stored(), offer),
        )
        # One that failed, and was told, may be tried again.
        transaction.execute("DELETE FROM offered WHERE operation = ?", (found.operation,))


def untold(database: Database) -> list[tuple[Evidence, bool]]:
    """Return what rehearsals that have ended found and nobody was told yet, and whether to offer the upgrade.

    Of one whose last step failed, what did not pass.
    """
    rows = database.read(
        "SELECT found, offer FROM evidence JOIN operations ON operations.id = evidence.operation"
        " WHERE (state = 'succeeded' OR state = 'failed' AND NOT passed)"
        " AND id NOT IN (SELECT operation FROM offered) ORDER BY id"
    )
    return [(Evidence.read(row["found"]), bool(row["offer"])) for row in rows]


def told(transaction: sqlite3.Connection, operation: int) -> None:
    """Note that the thread of a rehearsal, or of a batch of them, was told."""
    transaction.execute("INSERT OR IGNORE INTO offered (operation) VALUES (?)", (operation,))


def untell(database: Database, where: str) -> None:
    """Have the threads of operations told again, when they end; `where`: an SQL condition of ours."""
    which = f"operation IN (SELECT operation FROM offered JOIN operations ON id = operation WHERE {where})"  # noqa: S608
    if database.read(f"SELECT 1 FROM offered WHERE {which} LIMIT 1"):  # noqa: S608
        with database.transaction() as transaction:
            transaction.execute(f"DELETE FROM offered WHERE {which}")  # noqa: S608


def newest(database: Database, tenant: str, version: str) -> Evidence | None:
    """Return what the newest rehearsal of an upgrade of a tenant found; None: there was none.

    By the number of its operation: a clock may have been ahead, and numbers never go back.
    """
    rows = database.read(
        "SELECT found FROM evidence WHERE tenant = ? AND version = ? ORDER BY operation DESC LIMIT 1",
        tenant,
        version,
    )
    return Evidence.read(rows[0]["found"]) if rows else None


def forget(database: Database, before: float) -> list[int]:
    """Delete what was found before a moment; return the operations, whose files are nobody's any more."""
    with database.transaction() as transaction:
        gone = [row[0] for row in transaction.execute("SELECT operation FROM evidence WHERE at < ?", (before,))]
        transaction.execute("DELETE FROM evidence WHERE at < ?", (before,))
    return gone
