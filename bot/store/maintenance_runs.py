"""Maintenance runs: the operations of one run of a job share one row of the audit log, plus one for each failure.

A run lasts, over several looks, for as long as its job has something to do. Once none of its operations is open or has
ended recently, the run is summed up.
"""

from __future__ import annotations

from collections import Counter

from bot.model.lanes import SYSTEM
from bot.store import audit
from bot.store.database import Database

QUIET = 150.0
"""Seconds without an end of any of its operations after which a run is over: a job looks every minute, for a few."""
BY_THEMSELVES = frozenset({"purge"})
"""Commands that belong to no run: each permanent removal has audit rows of its own, whoever requested it."""


def run_of(database: Database, job: str, command: str, now: float) -> int:
    """Return the number of a job's current run, or of a new one; 0 for a command that belongs to no run."""
    if command in BY_THEMSELVES:
        return 0
    with database.transaction() as transaction:
        found = transaction.execute(
            "SELECT id FROM maintenance_runs WHERE job = ? AND ended IS NULL", (job,)
        ).fetchone()
        if found:
            return int(found["id"])
        begun = transaction.execute("INSERT INTO maintenance_runs (job, began) VALUES (?,?)", (job, now))
        return int(begun.lastrowid or 0)


def sum_up(database: Database, now: float) -> None:
    """Write the audit row of each finished run, in the transaction that finishes it."""
    over = database.read(
        """
        SELECT id, job, began FROM maintenance_runs WHERE ended IS NULL AND NOT EXISTS (
          SELECT 1 FROM operations WHERE run = maintenance_runs.id
            AND (state IN ('queued', 'running') OR finished BETWEEN ?1 AND ?2))
          AND began NOT BETWEEN ?1 AND ?2
        """,
        now - QUIET,
        now,
    )
    for run in over:
        with database.transaction() as transaction:
            ended = transaction.execute(
                "UPDATE maintenance_runs SET ended = ? WHERE id = ? AND ended IS NULL", (now, run["id"])
            )
            rows = transaction.execute(
                "SELECT id, command, tenant, state, finished FROM operations WHERE run = ? ORDER BY id", (run["id"],)
            ).fetchall()
            if not ended.rowcount or not rows:
                continue
            counts: dict[str, Counter[str]] = {}
            for row in rows:
                counts.setdefault(row["command"], Counter())[row["state"]] += 1
            detail: dict[str, object] = {
                "job": run["job"],
                "operations": [rows[0]["id"], rows[-1]["id"]],
                **{command: dict(states) for command, states in counts.items()},
            }
            audit.record(transaction, audit.Event("maintenance.run", SYSTEM, detail=detail), now)


def forget(database: Database, before: float) -> None:
    """Delete the records of runs summed up before a moment (epoch seconds); the audit log keeps their rows."""
    with database.transaction() as transaction:
        transaction.execute("DELETE FROM maintenance_runs WHERE ended < ?", (before,))
