"""The audit log: each change and its row are one transaction, and nobody changes a row unnoticed."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.store import audit
from bot.store.audit import Event
from bot.store.database import Database
from tests.support.bot import make_bench

ROWS = 20
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def log(tmp_path: Path) -> Database:
    database = Database(tmp_path / "bot.db")
    for number in range(1, ROWS + 1):
        with database.transaction() as transaction:
            audit.record(transaction, Event("operation.requested", f"U{number}", "client-x", number), 1000.0 + number)
    return database


def tamper(database: Database, *statements: str) -> None:
    """Do what somebody with the file and `sqlite3` can do: drop the triggers, then change rows."""
    with closing(sqlite3.connect(database.path)) as connection:
        for trigger in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger[0]}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_an_untouched_log_is_intact(log: Database) -> None:
    verdict = audit.verify(log)
    assert (verdict.rows, verdict.broken, verdict.reason) == (ROWS, 0, "")


@pytest.mark.parametrize("column", ["at", "event", "actor", "tenant", "operation", "detail", "previous", "hash"])
@pytest.mark.parametrize("row", [1, 10, ROWS])
def test_a_changed_row_is_found(log: Database, column: str, row: int) -> None:
    value = "7.5" if column == "at" else "99" if column == "operation" else "'changed'"
    tamper(log, f"UPDATE audit SET {column} = {value} WHERE seq = {row}")
    assert audit.verify(log).broken == row


@pytest.mark.parametrize("value", ["NULL", "x'00ff'", "1e999", "'5'", "5"])
@pytest.mark.parametrize("column", ["at", "actor", "operation", "detail"])
def test_a_value_of_the_wrong_type_is_found_without_an_error(log: Database, column: str, value: str) -> None:
    as_it_is = log.read(f"SELECT {value} = {column} AS same FROM audit WHERE seq = 5")[0]["same"]
    ddl = log.read("SELECT sql FROM sqlite_master WHERE name = 'audit'")[0]["sql"]
    loose = ddl.replace(" NOT NULL", "").replace("CREATE TABLE audit", "CREATE TABLE other")
    tamper(
        log,
        loose,
        "INSERT INTO other SELECT * FROM audit",
        "DROP TABLE audit",
        "ALTER TABLE other RENAME TO audit",
        f"UPDATE audit SET {column} = {value} WHERE seq = 5",
    )
    assert audit.verify(log).broken == (0 if as_it_is or (column, value) == ("operation", "'5'") else 5)


@given(
    st.tuples(
        st.integers(1, 2**62),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
        TEXT,
        TEXT,
        st.integers(0, 2**62),
        TEXT,
        st.just(audit.GENESIS),
    )
)
def test_a_row_is_hashed_as_its_json(row: tuple[Any, ...]) -> None:
    packed = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    assert audit.digest(row) == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("row", [1, 10])
def test_a_removed_row_is_found(log: Database, row: int) -> None:
    tamper(log, f"DELETE FROM audit WHERE seq = {row}")
    verdict = audit.verify(log)
    assert verdict.broken == row + 1
    assert verdict.reason == f"entry {row} is missing"


def test_a_removed_row_is_found_even_if_the_others_are_renumbered(log: Database) -> None:
    tamper(log, "DELETE FROM audit WHERE seq = 10", "UPDATE audit SET seq = seq - 1 WHERE seq > 10")
    assert audit.verify(log).broken == 10


@pytest.mark.parametrize("at", [1, 10, ROWS + 1])
def test_an_inserted_row_is_found(log: Database, at: int) -> None:
    tamper(
        log,
        f"UPDATE audit SET seq = -seq - 1 WHERE seq >= {at}",
        "UPDATE audit SET seq = -seq WHERE seq < 0",
        f"INSERT INTO audit SELECT {at}, at, event, 'U0FORGED', tenant, operation, detail, previous, 'forged'"
        " FROM audit WHERE seq = 5",
    )
    assert audit.verify(log).broken == at


def test_reordered_rows_are_found(log: Database) -> None:
    tamper(
        log,
        "UPDATE audit SET seq = -1 WHERE seq = 5",
        "UPDATE audit SET seq = 5 WHERE seq = 6",
        "UPDATE audit SET seq = 6 WHERE seq = -1",
    )
    assert audit.verify(log).broken == 5


def test_a_removed_tail_is_found_against_a_head_kept_elsewhere(log: Database) -> None:
    head = audit.verify(log).head
    tamper(log, f"DELETE FROM audit WHERE seq > {ROWS - 3}")
    assert not audit.verify(log).broken, "a shorter chain is intact by itself"
    assert audit.verify(log, head).broken == ROWS - 2
    assert audit.verify(log, head[:16]).broken == ROWS - 2, "the part of the head that people see is enough"


def test_a_row_added_in_somebodys_name_is_not_found(log: Database) -> None:
    """docs/security.md says so: whoever can write to the database can record an approval by anybody."""
    head = audit.verify(log).head
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.row_factory = sqlite3.Row
        audit.record(connection, Event("operation.approved", "U0OLIVIA", "client-x", 7), 5000.0)
    assert not audit.verify(log, head).broken


def test_an_earlier_head_is_still_found_in_a_longer_log(log: Database) -> None:
    head = audit.verify(log).head
    with log.transaction() as transaction:
        audit.record(transaction, Event("operation.denied", "U1"), 5000.0)
    assert not audit.verify(log, head).broken


def test_the_head_of_an_empty_log_raises_no_alarm(tmp_path: Path) -> None:
    """The first digest of a new bot shows this head."""
    with closing(Database(tmp_path / "new.db")) as log:
        head = audit.verify(log).head
        with log.transaction() as transaction:
            audit.record(transaction, Event("operation.requested", "U1"), 5000.0)
        assert not audit.verify(log, head[:16]).broken
        assert audit.verify(log, "1" * 16).broken


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'U0FORGED' WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 5",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT seq, at, event, 'U0FORGED', tenant, operation, detail, previous, hash"
        " FROM audit WHERE seq = 5",
        "INSERT OR REPLACE INTO audit SELECT seq + 20, at, event, actor, tenant, operation, detail, previous, hash"
        " FROM audit WHERE seq = 1",
        "INSERT INTO audit SELECT 99, at, event, actor, tenant, operation, detail, previous, 'new' FROM audit"
        " WHERE seq = 5",
    ],
)
def test_the_database_itself_refuses_to_rewrite_the_log(log: Database, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), log.transaction() as transaction:
        transaction.execute(statement)
    assert audit.verify(log).rows == ROWS


def test_a_change_whose_row_cannot_be_written_does_not_happen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(tmp_path)
    operation = bench.ask("new client-x")

    def refuse(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    changes: list[Callable[[], object]] = [
        lambda: bench.ask("new client-y"),
        lambda: bench.approve(operation),
        lambda: bench.context.approvals.expire(),
    ]
    monkeypatch.setattr(audit, "record", refuse)
    bench.clock.move(23 * 3600)
    for change in changes[:2]:
        with pytest.raises(Exception, match="disk is full"):
            change()
    bench.clock.move(2 * 3600)
    with pytest.raises(Exception, match="disk is full"):
        changes[2]()
    monkeypatch.undo()
    assert [one.tenant for one in bench.context.operations.select("1 = 1")] == ["client-x"]
    now = bench.context.operations.get(operation.id)
    assert (now.state, now.decisions, now.revision) == ("awaiting_approval", (), operation.revision)
    assert audit.verify(bench.context.database).rows == 1


def test_the_export_can_be_verified_without_the_bot(log: Database) -> None:
    previous = audit.GENESIS
    for text in audit.export(log):
        *fields, digest = json.loads(text).values()
        assert fields[-1] == previous
        packed = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        previous = hashlib.sha256(packed).hexdigest()
        assert digest == previous
    assert previous == audit.verify(log).head
