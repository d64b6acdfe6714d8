"""Results of upgrade rehearsals, kept until they are old and looked up by tenant and version."""

from __future__ import annotations

import sqlite3

from bot.model.evidence import Evidence
from bot.store.database import Database


def add(database: Database, found: Evidence, *, offer: bool) -> None:
    """Store the result of a rehearsal; it replaces an earlier one of the same operation.

    `offer`: the upgrade is requested once the rehearsal has passed.
    """
    with database.transaction() as transaction:
        transaction.execute(
            "INSERT OR REPLACE INTO evidence (operation, tenant, version, at, passed, found, offer)"
            " VALUES (?,?,?,?,?,?,?)",
            (found.operation, found.tenant, found.version, found.at, found.passed, found.stored(), offer),
        )
        # A rehearsal that failed and was reported may be retried: its new result is reported again.
        transaction.execute("DELETE FROM offered WHERE operation = ?", (found.operation,))


def untold(database: Database) -> list[tuple[Evidence, bool]]:
    """Return the results of ended rehearsals that were not reported yet, and whether to offer the upgrade.

    Of rehearsals that ended as failed, only results that did not pass are returned.
    """
    rows = database.read(
        "SELECT found, offer FROM evidence JOIN operations ON operations.id = evidence.operation"
        " WHERE (state = 'succeeded' OR state = 'failed' AND NOT passed)"
        " AND id NOT IN (SELECT operation FROM offered) ORDER BY id"
    )
    return [(Evidence.read(row["found"]), bool(row["offer"])) for row in rows]


def told(transaction: sqlite3.Connection, operation: int) -> None:
    """Record that the result of a rehearsal, of a batch of rehearsals or of a rollout was reported in its thread."""
    transaction.execute("INSERT OR IGNORE INTO offered (operation) VALUES (?)", (operation,))


def untell(database: Database, where: str) -> None:
    """Have the results of operations reported again when they end; `where`: an SQL condition written in the code."""
    which = f"operation IN (SELECT operation FROM offered JOIN operations ON id = operation WHERE {where})"  # noqa: S608
    if database.read(f"SELECT 1 FROM offered WHERE {which} LIMIT 1"):  # noqa: S608
        with database.transaction() as transaction:
            transaction.execute(f"DELETE FROM offered WHERE {which}")  # noqa: S608


def newest(database: Database, tenant: str, version: str) -> Evidence | None:
    """Return the result of the newest rehearsal of a tenant's upgrade to a version; None if there was none.

    The newest is the one with the highest operation number: a clock may have been ahead, and numbers never go back.
    """
    rows = database.read(
        "SELECT found FROM evidence WHERE tenant = ? AND version = ? ORDER BY operation DESC LIMIT 1",
        tenant,
        version,
    )
    return Evidence.read(rows[0]["found"]) if rows else None


def forget(database: Database, before: float) -> None:
    """Delete the results from before a moment, in epoch seconds."""
    if database.read("SELECT 1 FROM evidence WHERE at < ? LIMIT 1", before):
        with database.transaction() as transaction:
            transaction.execute("DELETE FROM evidence WHERE at < ?", (before,))
