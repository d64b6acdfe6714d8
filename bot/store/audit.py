"""The audit log: append-only, hash-chained, and written in the same transaction as the change itself."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted
from typing import Any

from bot.model.words import tame
from bot.store.database import Database, DatabaseDamaged

GENESIS = "0" * 64
HEAD = 16
"""Characters of a hash in a published head."""
ANEW = "audit.began_anew"
"""The first event of a log that replaces an earlier one."""
TEXT, DETAIL = 4000, 60_000
"""Maximum characters of a text, and of a whole detail: entries are kept for ever."""


@dataclass(frozen=True)
class Event:
    """What happened, to which tenant, and by whom. `detail` holds plain JSON values; never a secret."""

    name: str
    actor: str
    tenant: str = ""
    operation: int = 0
    detail: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`: `broken` is the first row that does not fit, 0 when all do; `head` the last hash.

    `damaged`: what is wrong with the database file; if set, nothing is known about the log.
    """

    rows: int
    broken: int
    head: str
    reason: str = ""
    damaged: str = ""


def digest(row: tuple[Any, ...]) -> str:
    """Return the hash of a row, over all its columns but the hash: as JSON without spaces, in UTF-8."""
    seq, at, name, actor, tenant, operation, detail, previous = row
    try:
        if type(seq) is not int or type(at) is not float or type(operation) is not int or not math.isfinite(at):
            raise TypeError
        # The same text as from `json.dumps`, in half the time: an audit log has a million rows.
        text = (
            f"[{seq},{at!r},{_quoted(name)},{_quoted(actor)},{_quoted(tenant)},{operation},{_quoted(detail)},"
            f"{_quoted(previous)}]"
        )
    except TypeError:
        # A value that `record` never writes: somebody altered the row. `verify` is to report that, not to fail.
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def record(transaction: sqlite3.Connection, event: Event, at: float) -> str:
    """Append an event within a transaction; return its hash, the new head of the chain. `at`: epoch seconds."""
    last = transaction.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (last["seq"] + 1, last["hash"]) if last else (1, GENESIS)
    detail = json.dumps(_tamed(dict(event.detail or {})), ensure_ascii=False, sort_keys=True)
    if len(detail) > DETAIL:
        detail = json.dumps({"cut": detail[: DETAIL // 2]}, ensure_ascii=False)
    who = tame(event.name, 200), tame(event.actor, 200), tame(event.tenant, 200)
    row = (seq, at, *who, event.operation, detail, previous)
    head = digest(row)
    transaction.execute("INSERT INTO audit VALUES (?,?,?,?,?,?,?,?,?)", (*row, head))
    return head


def _tamed(value: object) -> object:
    """Return a value with all its texts tamed: no content may prevent an event from being recorded."""
    if isinstance(value, str):
        return tame(value, TEXT)
    if isinstance(value, Mapping):
        return {tame(str(key), TEXT): _tamed(found) for key, found in value.items()}
    return [_tamed(found) for found in value] if isinstance(value, list | tuple) else value


def verify(database: Database, head: str = "") -> Verdict:
    """Walk the whole chain and return the first row that was changed, removed (except at the end), inserted or moved.

    A removed tail or a recomputed chain shows only against a `head` that was kept elsewhere: a hash, or its first
    characters, that `verify` returned earlier and that must still be in the chain. The head of an empty log is in every
    chain.
    """
    if damaged := database.damage():
        return Verdict(0, 0, "", damaged=damaged)
    try:
        return _walked(database, head)
    except DatabaseDamaged as error:
        return Verdict(0, 0, "", damaged=str(error))


def _walked(database: Database, head: str) -> Verdict:
    met = GENESIS.startswith(head)
    expected, previous, seq = 1, GENESIS, 0
    for seq, row in _rows(database):
        if seq != expected:
            return Verdict(expected - 1, seq, previous, f"entry {expected} is missing")
        if row[-2] != previous:
            return Verdict(expected - 1, seq, previous, f"entry {seq} does not follow the one before")
        if digest(row[:-1]) != row[-1]:
            return Verdict(expected - 1, seq, previous, f"entry {seq} was changed")
        previous, expected = str(row[-1]), expected + 1
        met = met or previous.startswith(head)
    if not met:
        return Verdict(seq, expected, previous, f"the checkpoint {head[:16]} is no longer in the log")
    return Verdict(seq, 0, previous)


def newest(database: Database) -> str:
    """Return the head of the chain for messages: `<row>:<first characters of its hash>`; "" for an empty log."""
    for row in database.read("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"):
        return f"{row['seq']}:{row['hash'][:HEAD]}"
    return ""


def unknown(database: Database, heads: Iterable[str]) -> list[tuple[int, str]]:
    """Return the heads, in the form of `newest`, that are not in the log, as (row, first characters of the hash)."""
    told = [(int(seq), begin) for seq, _, begin in (head.partition(":") for head in heads) if seq.isdecimal()]
    return [
        (seq, begin)
        for seq, begin in told
        if not database.read("SELECT 1 FROM audit WHERE seq = ? AND substr(hash, 1, ?) = ?", seq, len(begin), begin)
    ]


def began_anew(database: Database, since: float) -> bool:
    """Whether the log began at or after `since` (epoch seconds) although there had been an earlier one."""
    return bool(database.read("SELECT 1 FROM audit WHERE seq = 1 AND event = ? AND at >= ?", ANEW, since))


def _rows(database: Database) -> Iterator[tuple[int, tuple[Any, ...]]]:
    last = 0
    while batch := database.read("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT 5000", last):
        for row in map(tuple, batch):
            last = row[0]
            yield last, row


def export(database: Database) -> Iterator[str]:
    """Yield the log as JSON lines, oldest first, with hashes, so that another program can verify it."""
    for _, row in _rows(database):
        names = ("seq", "at", "event", "actor", "tenant", "operation", "detail", "previous", "hash")
        yield json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)


def recent(database: Database, *, tenant: str = "", limit: int = 20) -> list[sqlite3.Row]:
    """Return the latest rows, newest first, of one tenant or of all."""
    where, values = ("WHERE tenant = ?", [tenant]) if tenant else ("", [])
    return database.read(f"SELECT * FROM audit {where} ORDER BY seq DESC LIMIT ?", *values, limit)  # noqa: S608
