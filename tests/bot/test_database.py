"""The bot's SQLite file and its connections."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bot.store.database import KEPT, Database, DatabaseUnavailable
from tests.support.bot import make_bench


def _connections(folder: Path) -> int:
    """Return how often this process has the file open."""
    return sum(path.exists() and path.resolve() == folder / "bot.db" for path in Path("/proc/self/fd").iterdir())


def test_consecutive_threads_use_the_same_connection(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")
    for _ in range(20):
        thread = threading.Thread(target=database.read, args=["SELECT 1"])
        thread.start()
        thread.join()
    assert _connections(tmp_path) == 1
    database.close()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        database.read("SELECT 1")
    assert _connections(tmp_path) == 0


def test_after_many_at_once_few_connections_stay_open(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")
    at_once = threading.Barrier(20)

    def look() -> None:
        with database._borrowed() as connection:
            at_once.wait(30)
            connection.execute("SELECT 1").fetchall()

    with ThreadPoolExecutor(20) as pool:
        for look_ in [pool.submit(look) for _ in range(20)]:
            look_.result()
    # Descriptors cannot be counted here: SQLite keeps those of a file that is in use, to use them again.
    assert len(database._opened) == KEPT
    database.close()


def test_a_connection_with_an_open_transaction_is_not_reused(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")
    with database._borrowed() as connection:
        connection.execute("BEGIN IMMEDIATE")
    assert not database._opened
    with database.transaction() as transaction:
        transaction.execute("CREATE TABLE written (word TEXT)")
    database.close()


def test_uncommitted_writes_are_visible_only_in_their_own_transaction(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")
    with database.transaction() as transaction:
        transaction.execute("CREATE TABLE written (word TEXT)")
        transaction.execute("INSERT INTO written VALUES ('here')")
        assert [row["word"] for row in database.read("SELECT word FROM written")] == ["here"]
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(database.read, "SELECT name FROM sqlite_master WHERE name = 'written'")
            assert elsewhere.result() == []
    database.close()


def test_a_commit_of_the_bot_is_on_disk(tmp_path: Path) -> None:
    """Runs in a separate process, because the test suite itself does not wait for the disk."""
    program = (
        "import bot.store.database, sys; print(*bot.store.database.Database(sys.argv[1]).read('PRAGMA synchronous')[0])"
    )
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path / "bot.db")], capture_output=True, check=True)
    assert told.stdout.split() == [b"2"], "2 is FULL"


def test_the_bot_loads_no_large_library() -> None:
    """Each of these cost the idle bot 14 MB or more, where it was installed for something else."""
    program = "import sys, bot.program; print(*{'numpy', 'pandas', 'matplotlib'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


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


def test_the_freezes_migration_runs_before_subjects_but_last_in_a_file_that_has_those(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")

    def made() -> list[str]:
        rows = database.read("SELECT name FROM _sqlite_migrations ORDER BY id")
        return [row["name"] for row in rows if row["name"] >= "m027"]

    assert made()[:3] == ["m027_freezes", "m028_subjects", "m029_numbers"]
    with database.transaction() as old:
        old.execute("DELETE FROM _sqlite_migrations WHERE name = 'm027_freezes'")
        old.execute("DROP TABLE freezes")
        old.execute("DROP INDEX one_operation_under_way")
        old.execute("ALTER TABLE operations DROP COLUMN held_by")
        old.execute(
            "CREATE UNIQUE INDEX one_operation_under_way ON operations(tenant)"
            " WHERE tenant <> '' AND state IN ('queued', 'running', 'needs_attention')"
        )
    database.close()
    database = Database(tmp_path / "bot.db")
    assert made()[-1] == "m027_freezes"
    assert database.read("SELECT count(*) FROM freezes")[0][0] == 0
    assert database.read("SELECT held_by FROM operations") == []
