"""Writes that come together: one transaction for all that wait, and each succeeds or fails for itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from bot.store.database import Database, DatabaseUnavailable
from tests.support.bot import until


class Counting(Database):
    """One that counts its transactions, and lets the word `first` wait, once it is being written, for `go_on`."""

    count = 0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.at_commit: Callable[[], None] = lambda: None
        with self.transaction() as transaction:
            transaction.execute("CREATE TABLE words (word TEXT PRIMARY KEY CHECK (word <> 'bad'))")
        self.count = 0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with super().transaction() as transaction:
            self.count += 1
            yield transaction
            self.at_commit()

    def words(self) -> list[str]:
        return [row["word"] for row in self.read("SELECT word FROM words ORDER BY rowid")]

    def add(self, word: str) -> str:
        """Add a word together with others; it says in which thread it was written."""

        def write(transaction: sqlite3.Connection) -> str:
            transaction.execute("INSERT INTO words VALUES ('half of ' || ?)", (word,))
            if word == "first":
                self.begun.set()
                self.go_on.wait(30)
            if word == "all gone":
                transaction.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            transaction.execute("INSERT INTO words VALUES (?)", (word,))
            transaction.execute("DELETE FROM words WHERE word = 'half of ' || ?", (word,))
            return threading.current_thread().name

        return self.together(write)

    def waiting(self) -> int:
        return self.group.waiting()


@pytest.fixture
def database(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "bot.db")


def all_at_once(database: Counting, *words: str) -> dict[str, Future[str]]:
    """While the first is being written the others come, in this order."""
    with ThreadPoolExecutor(len(words) + 1) as writers:
        added = {"first": writers.submit(database.add, "first")}
        assert database.begun.wait(30)
        for number, word in enumerate(words, 1):
            added[word] = writers.submit(database.add, word)
            until(lambda number=number: database.waiting() == number)  # type: ignore[misc]
        database.go_on.set()
    return added


def test_who_is_alone_commits_at_once(database: Counting) -> None:
    assert database.add("word") == threading.current_thread().name
    assert (database.words(), database.count) == (["word"], 1)


def test_all_that_wait_meanwhile_share_one_transaction_in_their_order(database: Counting) -> None:
    added = all_at_once(database, *map(str, range(20)))
    assert database.words() == ["first", *map(str, range(20))]
    assert database.count == 2
    assert len({one.result() for word, one in added.items() if word != "first"}) == 1, "one leads"


def test_what_fails_fails_alone_and_leaves_nothing(database: Counting) -> None:
    added = all_at_once(database, "before", "bad", "after", "\ud800", "last")
    assert database.words() == ["first", "before", "after", "last"]
    assert database.count == 2
    assert isinstance(added.pop("bad").exception(), sqlite3.IntegrityError)
    assert isinstance(added.pop("\ud800").exception(), UnicodeEncodeError)
    assert all(one.result() for one in added.values())


def test_nobody_is_told_that_it_is_written_before_the_commit_or_when_that_fails(database: Counting) -> None:
    def fail() -> None:
        if database.count > 1:
            raise sqlite3.OperationalError("disk I/O error")

    database.at_commit = fail
    added = all_at_once(database, "one", "two", "bad")
    assert added.pop("first").result()
    assert isinstance(added.pop("bad").exception(), sqlite3.IntegrityError), "its own reason"
    assert all(isinstance(one.exception(), DatabaseUnavailable) for one in added.values())
    assert database.words() == ["first"]
    database.at_commit = lambda: None
    assert database.add("goes on")


def test_where_the_transaction_cannot_begin_all_that_wait_are_told(database: Counting, tmp_path: Path) -> None:
    with database.transaction() as transaction:
        transaction.execute("PRAGMA busy_timeout=0")
    other = sqlite3.connect(tmp_path / "bot.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable):
        database.add("one")
    other.execute("ROLLBACK")
    assert database.add("two")
    assert database.words() == ["two"]
    other.close()


def test_where_all_was_taken_back_all_fail(database: Counting) -> None:
    """As SQLite does by itself where the disk is full."""
    added = all_at_once(database, "before", "all gone", "after")
    assert added.pop("first").result()
    assert all(one.exception() for one in added.values())
    assert database.words() == ["first"]
    assert database.add("goes on")


def test_within_a_transaction_nothing_waits_for_itself(database: Counting) -> None:
    with database.transaction(), pytest.raises(RuntimeError, match="a transaction is open"):
        database.add("word")


def test_many_threads_write_all(database: Counting) -> None:
    database.go_on.set()
    with ThreadPoolExecutor(32) as writers:
        list(writers.map(database.add, map(str, range(500))))
    assert sorted(database.words(), key=int) == [str(number) for number in range(500)]
    assert database.count <= 500
