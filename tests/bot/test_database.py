"""The one SQLite file, and who has it open."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bot.store.database import Database
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
    program = (
        "import bot.store.database, sys; print(*bot.store.database.Database(sys.argv[1]).read('PRAGMA synchronous')[0])"
    )
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path / "bot.db")], capture_output=True, check=True)
    assert told.stdout.split() == [b"2"], "2 is FULL"


def test_what_opens_the_file_loads_nothing_big() -> None:
    """Each has cost the bot 14 MB or more at rest, where it is installed for something else."""
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


def test_freezes_come_before_subjects_in_a_new_file_and_after_them_in_one_that_had_those(tmp_path: Path) -> None:
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
