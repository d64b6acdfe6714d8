"""The one SQLite file, and who has it open."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from bot.database import Database


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
