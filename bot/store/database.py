"""The one SQLite database: write transactions that take the lock at once, and connections that threads borrow."""

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
"""Seconds that a connection waits for another process to release the file."""

SYNCHRONOUS = "FULL"
"""WAL keeps every commit after kill -9 whatever this is; FULL also after a power cut, as an audit log requires."""


KEPT = 3
"""Connections that stay open between uses, each about 150 kB: as many as are in use at once on most days."""


class DatabaseUnavailable(Exception):
    """The database is locked, full or gone: what cannot be recorded is not done."""


class DatabaseDamaged(DatabaseUnavailable):
    """The file is no longer an intact database."""

    def __init__(self, error: sqlite3.DatabaseError) -> None:
        super().__init__(
            f"The bot's own database is damaged ({error}): keep a copy of `bot.db` and the files beside it, and bring "
            "back its backup, as “Backup” in `docs/production.md` says."
        )


class Database:
    """The database file. Threads borrow its connections, each for one read or one transaction."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        self._free: list[sqlite3.Connection] = []
        self._opened: set[sqlite3.Connection] = set()
        # SQLite waits for its write lock by polling, which may starve a thread; this lock does not.
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
        """Return the connection of the transaction that this thread is in, or None."""
        connection: sqlite3.Connection | None = getattr(self._within, "connection", None)
        return connection

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection of the transaction that this thread is in, or one that no other thread uses."""
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
            # A connection that could not be rolled back still has a transaction open, so it is not reused.
            if self._closed:
                self._close(connection)
            elif len(self._free) < KEPT and not connection.in_transaction:
                self._free.append(connection)
            else:
                self._close(connection)

    def _open(self) -> sqlite3.Connection:
        # Autocommit: only `transaction` begins transactions.
        connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        # Deleted content is overwritten: first logins, and what people typed.
        connection.execute("PRAGMA secure_delete=ON")
        self._opened.add(connection)
        return connection

    def _close(self, connection: sqlite3.Connection) -> None:
        self._opened.discard(connection)
        connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Begin a write transaction at once (BEGIN IMMEDIATE); roll back on any exception. `read` sees its writes."""
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
        """Run `write` in one transaction with all other writes that wait, and return its result once that is on disk.

        `write` may run in another thread, and only writes, by the connection that it is given. What it raises is raised
        to its own caller alone, and nothing of it is kept. Raises RuntimeError within a transaction of this thread, for
        whose end the write would wait.
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
        """Return what SQLite's own quick check finds wrong with the file; "" when that is nothing."""
        try:
            with self._borrowed() as connection:
                found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.DatabaseError as error:
            return str(error)
        return "" if found == ["ok"] else "; ".join(" ".join(one.split()) for one in found)

    def scrub(self) -> bool:
        """Move all writes into the database file and empty the write-ahead log; return False while somebody reads.

        Until then that log still contains what was deleted.
        """
        with self._writing, self._borrowed() as connection:
            try:
                # Do not wait for readers, because all writers would wait too.
                connection.execute("PRAGMA busy_timeout=0")
                busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                return False
            finally:
                connection.execute(f"PRAGMA busy_timeout={BUSY * 1000}")
        return not busy

    def close(self) -> None:
        """Close every connection, including borrowed ones."""
        self._closed = True
        for connection in list(self._opened):
            self._close(connection)


@contextmanager
def _told() -> Iterator[None]:
    """Turn SQLite's errors on a write into DatabaseUnavailable or DatabaseDamaged."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DatabaseUnavailable(
            f"The bot's own database could not be written ({error}), so nothing was done; try again in a minute."
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(error) from error


def _damaged(error: sqlite3.DatabaseError) -> sqlite3.DatabaseError | DatabaseDamaged:
    """Return DatabaseDamaged for an error of the file itself; any other error, such as one of the SQL, as it is."""
    return DatabaseDamaged(error) if type(error) is sqlite3.DatabaseError else error
