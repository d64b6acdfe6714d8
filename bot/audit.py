"""The audit log: append-only (triggers), hash-chained, written in the transaction of the change it tells of."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bot.database import Database

GENESIS = "0" * 64


@dataclass(frozen=True)
class Event:
    """What happened, to whom, by whom. `detail` holds plain JSON values; never a secret."""

    name: str
    actor: str
    tenant: str = ""
    operation: int = 0
    detail: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Verdict:
    """What verify() found: `broken` is the first row that does not fit, 0 when all do; `head` the last hash."""

    rows: int
    broken: int
    head: str
    reason: str = ""


def _digest(row: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def record(transaction: sqlite3.Connection, event: Event, at: float) -> str:
    """Append an event within a transaction; return its hash, the new head of the chain. `at`: epoch seconds."""
    last = transaction.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (last["seq"] + 1, last["hash"]) if last else (1, GENESIS)
    detail = json.dumps(dict(event.detail or {}), ensure_ascii=False, sort_keys=True)
    row = (seq, at, event.name, event.actor, event.tenant, event.operation, detail, previous)
    digest = _digest(row)
    transaction.execute("INSERT INTO audit VALUES (?,?,?,?,?,?,?,?,?)", (*row, digest))
    return digest


def verify(database: Database, head: str = "") -> Verdict:
    """Walk the whole chain. Finds a changed, removed (but for the tail), inserted or reordered row.

    A removed tail, or a chain that was computed anew, shows only against a `head` kept elsewhere: the hash (or its
    beginning) that verify gave at an earlier time, which must still be in the chain. That of an empty log is in each.
    """
    met = GENESIS.startswith(head)
    expected, previous, seq = 1, GENESIS, 0
    for seq, row in _rows(database):
        if seq != expected:
            return Verdict(expected - 1, seq, previous, f"row {expected} is missing")
        if row[-2] != previous:
            return Verdict(expected - 1, seq, previous, f"row {seq} does not follow the row before it")
        if _digest(row[:-1]) != row[-1]:
            return Verdict(expected - 1, seq, previous, f"row {seq} was changed")
        previous, expected = str(row[-1]), expected + 1
        met = met or previous.startswith(head)
    if not met:
        return Verdict(seq, expected, previous, f"the head {head[:16]} kept elsewhere is no longer in it")
    return Verdict(seq, 0, previous)


def _rows(database: Database) -> Iterator[tuple[int, tuple[object, ...]]]:
    last = 0
    while batch := database.read("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT 5000", last):
        for row in batch:
            last = row["seq"]
            yield last, tuple(row)


def export(database: Database) -> Iterator[str]:
    """Yield the log as JSON lines, oldest first, with hashes, so that another program can verify it."""
    for _, row in _rows(database):
        names = ("seq", "at", "event", "actor", "tenant", "operation", "detail", "previous", "hash")
        yield json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)


def recent(database: Database, *, tenant: str = "", limit: int = 20) -> list[sqlite3.Row]:
    """Return the latest rows, newest first, of one tenant or of all."""
    where, values = ("WHERE tenant = ?", [tenant]) if tenant else ("", [])
    return database.read(f"SELECT * FROM audit {where} ORDER BY seq DESC LIMIT ?", *values, limit)  # noqa: S608
