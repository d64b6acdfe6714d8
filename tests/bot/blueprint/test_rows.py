"""The rows of a tenant's tables are counted within a time limit, and slower tables are left out."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bot.guest.blueprint.mautic_ctl import rows as counting
from bot.guest.blueprint.mautic_ctl import system
from bot.guest.blueprint.mautic_ctl.rows import rows
from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.model.evidence import OF_CLIENTS
from tests.support.large_tenant import LargeTenant
from tests.support.workspace import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeTenant]:
    made = LargeTenant(tmp_path_factory.mktemp("mariadb"), contacts=2000, buffer_pool="32M")
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _asked_there(server: LargeTenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(system.ENVIRONMENT, "HOME", str(server.home))
    monkeypatch.setattr(counting, "await_database", lambda: None)


@contextmanager
def locked(server: LargeTenant, table: str) -> Iterator[None]:
    """Lock a table so that nobody else can read it."""
    client = ["mariadb", "--no-defaults", f"--socket={server.socket}", "mautic"]
    holder = subprocess.Popen([*client, "-e", f"LOCK TABLES {table} WRITE; SELECT SLEEP(60)"])
    try:
        eventually(lambda: "SLEEP" in str(server.sql("SELECT info FROM information_schema.processlist")))
        yield
    finally:
        # The server notices late that a client is gone.
        for (number,) in server.sql("SELECT id FROM information_schema.processlist WHERE info LIKE '%SLEEP(60)'"):
            server.sql(f"KILL {number}")
        holder.wait(30)


def test_row_counts_are_exact(server: LargeTenant) -> None:
    found = rows(OF_CLIENTS)
    assert found.keys() == OF_CLIENTS
    there = {
        row[0] for row in server.sql("SELECT table_name FROM information_schema.tables WHERE table_schema='mautic'")
    }
    for name in OF_CLIENTS & there:
        assert [[str(found[name])]] == server.sql(f"SELECT COUNT(*) FROM {name}"), name
    assert found["leads"] == 2000
    assert {found[name] for name in OF_CLIENTS - there} == {0}, "a missing table has no rows"


def test_a_slow_table_is_left_out_and_delays_no_other(server: LargeTenant) -> None:
    with locked(server, "leads"):
        began = time.monotonic()
        found = rows(["leads", "form_submissions", "email_stats"])
        assert time.monotonic() - began < counting.BUDGET + 2
    assert found == {"form_submissions": 1000, "email_stats": 10_000}


def test_large_tables_are_counted_one_by_one_while_there_is_time(
    server: LargeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "LARGE", 1500)
    asked: list[str] = []

    def sql(statements: str, database: str = "", *, force: bool = False) -> list[list[str]]:
        asked.append(statements)
        return system.sql(statements, database, force=force)

    monkeypatch.setattr(counting, "sql", sql)
    assert rows(["leads", "form_submissions", "email_stats", "forms"]).keys() == {
        "leads",
        "form_submissions",
        "email_stats",
        "forms",
    }
    assert [statements.count("COUNT(*)") for statements in asked] == [0, 2, 1, 1]
    assert rows(["leads", "nowhere"], budget=0.0) == {"nowhere": 0}


def test_a_database_that_does_not_answer_is_not_reported_as_empty_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> list[list[str]]:
        raise CtlError("the database refused a statement (no connection)")

    monkeypatch.setattr(counting, "sql", refuse)
    assert rows(OF_CLIENTS) == {}
