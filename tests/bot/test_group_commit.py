"""Group commit: all writes that wait share one transaction, and each succeeds or fails by itself."""

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
    """A database that counts its transactions, and in which the write of the word `first` waits for `go_on`."""

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
        """Add a word together with others; return the name of the thread that wrote it."""

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
    """Add these words, in this order, while `first` is being written; return the result of each."""
    with ThreadPoolExecutor(len(words) + 1) as writers:
        added = {"first": writers.submit(database.add, "first")}
        assert database.begun.wait(30)
        for number, word in enumerate(words, 1):
            added[word] = writers.submit(database.add, word)
            until(lambda number=number: database.waiting() == number)  # type: ignore[misc]
        database.go_on.set()
    return added


def test_a_single_write_is_committed_at_once(database: Counting) -> None:
    assert database.add("word") == threading.current_thread().name
    assert (database.words(), database.count) == (["word"], 1)


def test_writes_that_wait_share_one_transaction_in_their_order(database: Counting) -> None:
    added = all_at_once(database, *map(str, range(20)))
    assert database.words() == ["first", *map(str, range(20))]
    assert database.count == 2
    assert len({one.result() for word, one in added.items() if word != "first"}) == 1, "one thread writes for all"


def test_a_write_that_fails_fails_alone_and_leaves_nothing(database: Counting) -> None:
    added = all_at_once(database, "before", "bad", "after", "\ud800", "last")
    assert database.words() == ["first", "before", "after", "last"]
    assert database.count == 2
    assert isinstance(added.pop("bad").exception(), sqlite3.IntegrityError)
    assert isinstance(added.pop("\ud800").exception(), UnicodeEncodeError)
    assert all(one.result() for one in added.values())


def test_no_write_succeeds_if_the_commit_fails(database: Counting) -> None:
    def fail() -> None:
        if database.count > 1:
            raise sqlite3.OperationalError("disk I/O error")

    database.at_commit = fail
    added = all_at_once(database, "one", "two", "bad")
    assert added.pop("first").result()
    assert isinstance(added.pop("bad").exception(), sqlite3.IntegrityError), "it fails for its own reason"
    assert all(isinstance(one.exception(), DatabaseUnavailable) for one in added.values())
    assert database.words() == ["first"]
    database.at_commit = lambda: None
    assert database.add("goes on")


def test_a_write_fails_if_its_transaction_cannot_begin(database: Counting, tmp_path: Path) -> None:
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


def test_all_writes_fail_if_their_transaction_was_rolled_back(database: Counting) -> None:
    """SQLite rolls back by itself if the disk is full."""
    added = all_at_once(database, "before", "all gone", "after")
    assert added.pop("first").result()
    assert all(one.exception() for one in added.values())
    assert database.words() == ["first"]
    assert database.add("goes on")


def test_a_group_write_inside_a_transaction_is_an_error(database: Counting) -> None:
    with database.transaction(), pytest.raises(RuntimeError, match="a transaction is open"):
        database.add("word")


def test_the_writes_of_many_threads_all_succeed(database: Counting) -> None:
    database.go_on.set()
    with ThreadPoolExecutor(32) as writers:
        list(writers.map(database.add, map(str, range(500))))
    assert sorted(database.words(), key=int) == [str(number) for number in range(500)]
    assert database.count <= 500
