"""Group commit: concurrent writes share one transaction, so that together they wait for the disk only once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

T = TypeVar("T")


class _Write:
    """A pending write: its function, an event for its turn (to lead, or to return), and its result or error."""

    def __init__(self, do: Callable[[sqlite3.Connection], Any]) -> None:
        self.do = do
        self.turn = threading.Event()
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """Leader and followers: the first writer commits for all that wait by then, and hands on to the next that waits.

    No writer waits for others to come: a single one commits at once.

    Args:
        transaction: begins a write transaction; commits at its end, and rolls back on any exception.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._transaction = transaction
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        self._is_led = False

    def write(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `do` returns, once its writes are on disk; raise what it raises, and then nothing is written.

        `do` runs once, in the leader's thread, in the order of the calls; it only writes, by the connection that it is
        given. Its exception goes to its own caller alone; a transaction that fails as a whole fails for all that share
        it.
        """
        mine = _Write(do)
        with self._lock:
            self._waiting.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.turn.wait()
        if not mine.done:
            self._lead()
        if mine.error:
            raise mine.error
        result: T = mine.result
        return result

    def waiting(self) -> int:
        """Return how many writes wait for the next transaction."""
        with self._lock:
            return len(self._waiting)

    def _lead(self) -> None:
        group: list[_Write] = []
        try:
            with self._transaction() as transaction:
                # Not sooner: more writes have come while this transaction waited for the database.
                group = self._take()
                for one in group:
                    _write(transaction, one)
        except BaseException as error:
            group = group or self._take()
            for one in group:
                one.error = one.error or error
        with self._lock:
            following = self._waiting[:1]
            self._is_led = bool(following)
        for one in group:
            one.done = True
        for one in (*following, *group):
            one.turn.set()

    def _take(self) -> list[_Write]:
        with self._lock:
            group, self._waiting = self._waiting, []
        return group


def _write(transaction: sqlite3.Connection, one: _Write) -> None:
    """Run one write of a group in a savepoint, so that it can fail alone."""
    transaction.execute("SAVEPOINT one")
    try:
        one.result = one.do(transaction)
    except Exception as error:
        if not transaction.in_transaction:
            # SQLite has rolled the whole transaction back, as it does when the disk is full.
            raise
        transaction.execute("ROLLBACK TO one")
        one.error = error
    transaction.execute("RELEASE one")
