"""Changes of a database's tables, each made once: in a transaction together with the row that says so.

The rows are those of sqlite-utils, which earlier releases used: files in the field have them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A change while it is made, within its transaction."""

    connection: sqlite3.Connection

    def executescript(self, sql: str) -> None:
        """Run several statements. Python's own would commit what came before."""
        for statement in _statements(sql):
            self.connection.execute(statement)


class Migrations:
    """A set of changes; a decorator, for a function that makes one and that is known by its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changes: list[Callable[[Change], None]] = []

    def __call__(self) -> Callable[[Callable[[Change], None]], Callable[[Change], None]]:
        """Add a change after those that there are."""

        def add(change: Callable[[Change], None]) -> Callable[[Change], None]:
            self._changes.append(change)
            return change

        return add

    def apply(self, connection: sqlite3.Connection) -> None:
        """Make what was not made yet, in order. The connection is in autocommit.

        One that fails is rolled back and raises; those before it stay.
        """
        connection.execute(
            "CREATE TABLE IF NOT EXISTS _sqlite_migrations"
            " (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)"
        )
        for change in self._changes:
            # Where all is made nothing is written, nor is anybody's turn to write waited for.
            if self._made(connection, change.__name__):
                continue
            connection.execute("BEGIN IMMEDIATE")
            try:
                # Another process may have been quicker.
                if not self._made(connection, change.__name__):
                    change(Change(connection))
                    connection.execute(
                        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
                        " VALUES (?, ?, datetime('now') || '+00:00')",
                        (self._name, change.__name__),
                    )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _made(self, connection: sqlite3.Connection, name: str) -> bool:
        found = "SELECT 1 FROM _sqlite_migrations WHERE migration_set = ? AND name = ?"
        return connection.execute(found, (self._name, name)).fetchone() is not None


def _statements(sql: str) -> Iterator[str]:
    statement = ""
    for piece in sql.split(";"):
        statement += f"{piece};"
        # A trigger, or a text in quotes, has some of its own.
        if sqlite3.complete_statement(statement):
            if statement.strip() != ";":
                yield statement
            statement = ""
