"""The one SQLite file, and who has it open."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bot.database import Database
from bot.migrating import Change, Migrations
from tests.support.bot import make_bench


def test_threads_that_have_ended_keep_no_file_open(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")

    def held() -> int:
        return sum(path.exists() and path.resolve().parent == tmp_path for path in Path("/proc/self/fd").iterdir())

    before = held()
    for _ in range(20):
        thread = threading.Thread(target=database.read, args=["SELECT 1"])
        thread.start()
        thread.join()
    assert held() <= 2 * before
    database.close()
    assert held() == 0


def test_a_commit_of_the_bot_is_on_disk(tmp_path: Path) -> None:
    """In a process of its own, as the suite itself does without."""
    program = "import bot.database, sys; print(*bot.database.Database(sys.argv[1]).read('PRAGMA synchronous')[0])"
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path / "bot.db")], capture_output=True, check=True)
    assert told.stdout.split() == [b"2"], "2 is FULL"


def test_what_opens_the_file_loads_nothing_big() -> None:
    """Each has cost the bot 14 MB or more at rest, where it is installed for something else."""
    program = "import sys, bot.__main__; print(*{'numpy', 'pandas', 'matplotlib', 'click'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


class TestMigrations:
    """A set of two: the second one's text has semicolons of its own."""

    @pytest.fixture
    def connection(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None)) as connection:
            yield connection

    def changes(self, made: list[str], *, broken: bool = False) -> Migrations:
        migrations = Migrations("tests")

        @migrations()
        def m1(db: Change) -> None:
            made.append("m1")
            db.executescript("CREATE TABLE one (a TEXT); INSERT INTO one VALUES ('x;y');")

        @migrations()
        def m2(db: Change) -> None:
            made.append("m2")
            db.executescript(
                """
                CREATE TABLE two (a TEXT);
                CREATE TRIGGER kept BEFORE DELETE ON one
                  BEGIN INSERT INTO two VALUES (old.a); SELECT 1; END;
                """
            )
            if broken:
                db.connection.execute("SELECT * FROM nowhere")

        return migrations

    def test_each_is_made_once_and_in_order(self, connection: sqlite3.Connection) -> None:
        made: list[str] = []
        for _ in range(2):
            self.changes(made).apply(connection)
        assert made == ["m1", "m2"]
        connection.execute("DELETE FROM one")
        assert connection.execute("SELECT a FROM two").fetchall() == [("x;y",)]
        rows = connection.execute("SELECT migration_set, name FROM _sqlite_migrations ORDER BY id").fetchall()
        assert rows == [("tests", "m1"), ("tests", "m2")]

    def test_one_that_fails_leaves_nothing_and_is_made_the_next_time(self, connection: sqlite3.Connection) -> None:
        made: list[str] = []
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            self.changes(made, broken=True).apply(connection)
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('one', 'two')"
        assert connection.execute(tables).fetchall() == [("one",)]
        assert not connection.in_transaction
        self.changes(made).apply(connection)
        assert made == ["m1", "m2", "m2"]

    def test_who_finds_all_made_waits_for_no_writer(self, connection: sqlite3.Connection, tmp_path: Path) -> None:
        self.changes([]).apply(connection)
        connection.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None, timeout=0)) as other:
            self.changes([]).apply(other)

    def test_a_file_of_a_release_with_sqlite_utils_is_gone_on_with(self, connection: sqlite3.Connection) -> None:
        """Its table, as it made it."""
        connection.executescript(
            """
            CREATE TABLE "_sqlite_migrations" (
               "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT);
            CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
                ON "_sqlite_migrations" ("migration_set", "name");
            INSERT INTO _sqlite_migrations VALUES (1, 'tests', 'm1', '2026-07-04 12:00:00.000000+00:00');
            CREATE TABLE one (a TEXT);
            """
        )
        made: list[str] = []
        self.changes(made).apply(connection)
        assert made == ["m2"]


def test_the_steps_and_decisions_of_many_operations_are_read_at_once(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    asked = [bench.ask(f"new client-{number}") for number in range(5)]
    bench.approve(asked[2])
    bench.finish()
    database, read, reads = bench.context.database, bench.context.database.read, list[str]()

    def counted(sql: str, *values: object) -> list[sqlite3.Row]:
        reads.append(sql)
        return read(sql, *values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "read", counted)
        found = bench.context.operations.select("tenant LIKE 'client-%'")
    assert len(reads) == 3
    assert [one.id for one in found] == [one.id for one in asked]
    assert found == [bench.context.operations.get(one.id) for one in asked]
    assert [len(one.decisions) for one in found] == [0, 0, 1, 0, 0]
    assert all(step.finished for step in found[2].steps)
    assert found[2].steps
