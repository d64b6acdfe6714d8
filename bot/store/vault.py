"""Stores first logins encrypted until the requester of the tenant sees them, once."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from bot.model.plan import Refused
from bot.store import audit
from bot.store.database import Database, DatabaseUnavailable
from bot.store.uptime import Uptime

log = logging.getLogger(__name__)
LOST = "For a new password, ask whoever runs the bot's machine (“Reset an admin password” in `docs/production.md`)."


class Vault:
    """Stores secrets in the database, encrypted with a key in a file of mode 0600."""

    def __init__(self, database: Database, key_file: Path, clock: Callable[[], float], uptime: Uptime) -> None:
        self.database = database
        self.clock = clock
        self.uptime = uptime
        self._traces = True
        """Whether the database files may still contain deleted credentials."""
        if not key_file.exists():
            # Written beside it and renamed: a crash in the middle must not leave an empty key.
            part = key_file.with_suffix(".part")
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(Fernet.generate_key())
            part.rename(key_file)
        self._fernet = Fernet(key_file.read_bytes())

    def ensure(self, operation: int, tenant: str, owner: str, hours: float, **known: str) -> dict[str, str]:
        """Return the credentials of an operation, created at the first call: `known` and a `password`.

        They expire after `hours`; 0: they are kept until they are revealed.
        """
        rows = self.database.read("SELECT ciphertext FROM secrets WHERE operation = ?", operation)
        if rows:
            return self._open(rows[0]["ciphertext"])
        held = {**known, "password": secrets.token_urlsafe(18)}
        now = self.clock()
        with self.database.transaction() as transaction:
            transaction.execute(
                "INSERT INTO secrets (operation, tenant, owner, ciphertext, expires, made) VALUES (?,?,?,?,?,?)",
                (
                    operation,
                    tenant,
                    owner,
                    self._fernet.encrypt(json.dumps(held).encode()),
                    now + hours * 3600 if hours else math.inf,
                    now,
                ),
            )
        return held

    @contextmanager
    def reveal(self, tenant: str, actor: str) -> Iterator[dict[str, str]]:
        """Yield the credentials to their owner, for the `with` block to show, or raise Refused.

        Before the block begins they are deleted, and it is recorded that they are shown: of several simultaneous
        requests only one gets them. If the block fails they are put back, and that is recorded too.
        """
        row = self._waiting(tenant, actor)
        known = self._open(row["ciphertext"])
        with self.database.transaction() as transaction:
            claimed = transaction.execute("DELETE FROM secrets WHERE operation = ?", (row["operation"],)).rowcount
            if claimed:
                event = audit.Event("credentials.revealed", actor, tenant, row["operation"])
                audit.record(transaction, event, self.clock())
        if not claimed:
            raise Refused(f"The first login of `{tenant}` is being shown right now; a first login is shown once.")
        try:
            yield known
        except Exception as error:
            self._put_back(row, actor, error)
            raise
        self._traces = True
        self._clean()

    def _put_back(self, row: sqlite3.Row, actor: str, error: Exception) -> None:
        try:
            with self.database.transaction() as transaction:
                columns = row.keys()
                transaction.execute(
                    f"INSERT INTO secrets ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
                    tuple(row),
                )
                event = audit.Event("credentials.not_shown", actor, row["tenant"], row["operation"])
                audit.record(transaction, event, self.clock())
        except DatabaseUnavailable as lost:
            log.warning("the first login of %s was not shown (%s), and is lost: %s", row["tenant"], error, lost)
            raise Refused(
                f"Slack did not show the first login of `{row['tenant']}`, and it is lost, because the bot's database "
                f"can't be written. {LOST}"
            ) from error

    def refuse_unless_waiting(self, tenant: str, actor: str) -> None:
        """Raise Refused if `reveal` would."""
        self._waiting(tenant, actor)

    def _waiting(self, tenant: str, actor: str) -> sqlite3.Row:
        rows = self.database.read(
            "SELECT s.* FROM secrets s JOIN operations o ON o.id = s.operation"
            " WHERE s.tenant = ? AND o.state = 'succeeded' ORDER BY s.operation DESC LIMIT 1",
            tenant,
        )
        if not rows or self._is_over(rows[0]):
            raise Refused(
                f"No first login of `{tenant}` is available: it was collected, has expired, or the tenant is not "
                f"finished. {LOST}"
            )
        if rows[0]["owner"] != actor:
            raise Refused(f"Only <@{rows[0]['owner']}>, who requested `{tenant}`, can see its first login.")
        return rows[0]

    def _is_over(self, row: sqlite3.Row) -> bool:
        """Whether the credentials have expired; a clock set forward does not expire them."""
        return row["expires"] <= self.clock() and bool(row["made"] <= self.uptime.before(row["expires"] - row["made"]))

    def purge(self) -> None:
        """Delete credentials that nobody collected in time."""
        rows = self.database.read("SELECT operation, expires, made FROM secrets WHERE expires <= ?", self.clock())
        for row in filter(self._is_over, rows):
            self.forget(row["operation"])
        self._clean()

    def forget(self, operation: int) -> None:
        """Delete the credentials of an operation that was rolled back, or that expired."""
        with self.database.transaction() as transaction:
            forgotten = transaction.execute("DELETE FROM secrets WHERE operation = ?", (operation,)).rowcount
        if forgotten:
            self._traces = True
            self._clean()

    def _clean(self) -> None:
        """Remove traces of deleted credentials from the database files; retry at a later call while somebody reads."""
        if self._traces:
            self._traces = not self.database.scrub()

    def _open(self, ciphertext: bytes) -> dict[str, str]:
        try:
            held: dict[str, str] = json.loads(self._fernet.decrypt(ciphertext))
        except InvalidToken as error:
            raise Refused("The first login can't be read: the bot's key file was replaced.") from error
        return held
