"""The one SQLite file: transactions that begin at once, and connections that are lent."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from bot.store.group_commit import GroupCommit
from bot.store.migrations import migrate

T = TypeVar("T")

BUSY = 10
"""Seconds that a connection waits for another process that has the file."""

SYNCHRONOUS = "FULL"
"""WAL keeps every commit over kill -9 whatever this is; FULL also over a power cut, which an audit log wants."""


KEPT = 3
"""Connections that stay open between uses, each about 150 kB: as many as are in use at once on most days."""


class DatabaseUnavailable(Exception):
    """The database is locked, full or gone: what cannot be recorded does not happen."""


class DatabaseDamaged(DatabaseUnavailable):
    """The file is no whole database any more."""

    def __init__(self, error: sqlite3.DatabaseError) -> None:
        super().__init__(
            f"The bot's own database is damaged ({error}): keep a copy of `bot.db` and the files beside it, and bring "
            "back its backup, as “Backup” in `docs/production.md` says."
        )


class Database:
    """The file. Threads borrow its connections, each for one read or one transaction."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        self._free: list[sqlite3.Connection] = []
        self._opened: set[sqlite3.Connection] = set()
        # SQLite's own waiting for its write lock is a poll that may starve a thread; this queue does not.
        self._writing = threading.RLock()
        self._within = threading.local()
        self._closed = False
        self.group = GroupCommit(self.transaction)
        try:
            with self._borrowed() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                migrate(connection)
                connection.commit()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise _damaged(error) from error

    def _transaction(self) -> sqlite3.Connection | None:
        """Return the connection of the transaction that this thread is in."""
        connection: sqlite3.Connection | None = getattr(self._within, "connection", None)
        return connection

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection of the transaction that this thread is in, or one that nobody else has."""
        if self._closed:
            raise DatabaseUnavailable("The bot's own database is closed, as the bot ends.")
        if within := self._transaction():
            yield within
            return
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._open()
        try:
            yield connection
        finally:
            # One that could not be rolled back is in the middle of somebody's transaction.
            if self._closed:
                self._close(connection)
            elif len(self._free) < KEPT and not connection.in_transaction:
                self._free.append(connection)
            else:
                self._close(connection)

    def _open(self) -> sqlite3.Connection:
        # Autocommit: transactions begin where transaction() says, nowhere else.
        connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        # What is deleted is overwritten: held logins, and what people typed.
        connection.execute("PRAGMA secure_delete=ON")
        self._opened.add(connection)
        return connection

    def _close(self, connection: sqlite3.Connection) -> None:
        self._opened.discard(connection)
        connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, begun at once (BEGIN IMMEDIATE); rolled back on any exception. What is read sees it."""
        with _told(), self._writing, self._borrowed() as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._within.connection = connection
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._within.connection = None

    def together(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Write in one transaction with all else that waits to be written so, and return what `write` returns.

        It is on disk by then. `write` may run in another thread, and only writes by the connection that it is given.
        What it raises is raised here alone, and nothing of it is kept. Within a transaction of one's own it would wait
        for itself: then it raises RuntimeError.
        """
        if self._transaction():
            raise RuntimeError("a transaction is open in this thread, and what is written together would wait for it")
        with _told():
            return self.group.write(write)

    def read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Run one SELECT and return its rows."""
        try:
            with self._borrowed() as connection:
                return connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(f"The bot's own database could not be read ({error}); try again.") from error
        except sqlite3.DatabaseError as error:
            raise _damaged(error) from error

    def damage(self) -> str:
        """Return what is wrong with the file, "" when nothing is: SQLite's own quick check."""
        try:
            with self._borrowed() as connection:
                found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.DatabaseError as error:
            return str(error)
        return "" if found == ["ok"] else "; ".join(" ".join(one.split()) for one in found)

    def scrub(self) -> bool:
        """Move all that was written into the file itself and empty the log beside it; False while somebody reads.

        What was deleted stands in that log until then.
        """
        with self._writing, self._borrowed() as connection:
            try:
                # Nobody waits for readers, as who writes would wait with them.
                connection.execute("PRAGMA busy_timeout=0")
                busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                return False
            finally:
                connection.execute(f"PRAGMA busy_timeout={BUSY * 1000}")
        return not busy

    def close(self) -> None:
        """Close every connection, also those that are lent."""
        self._closed = True
        for connection in list(self._opened):
            self._close(connection)


@contextmanager
def _told() -> Iterator[None]:
    """Say of SQLite's errors what they mean where something was to be written."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DatabaseUnavailable(
            f"The bot's own database could not be written ({error}), so nothing was done; try again in a minute."
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(error) from error


def _damaged(error: sqlite3.DatabaseError) -> sqlite3.DatabaseError | DatabaseDamaged:
    """Return what an error of the file is for people; one of what is asked of it stays as it is."""
    return DatabaseDamaged(error) if type(error) is sqlite3.DatabaseError else error
