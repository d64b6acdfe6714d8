"""First credentials: held encrypted until their one reveal to the person who asked for the tenant."""

from __future__ import annotations

import json
import math
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from bot import audit
from bot.database import Database
from bot.plan import Refused


class Vault:
    """Secrets in the database, their key in a file of mode 0600 beside it."""

    def __init__(self, database: Database, key_file: Path, clock: Callable[[], float]) -> None:
        self.database = database
        self.clock = clock
        if not key_file.exists():
            # Whole or not at all: a crash in the middle must not leave an empty key.
            part = key_file.with_suffix(".part")
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(Fernet.generate_key())
            part.rename(key_file)
        self._fernet = Fernet(key_file.read_bytes())

    def ensure(self, operation: int, tenant: str, owner: str, hours: float, **known: str) -> dict[str, str]:
        """Return the credentials of an operation, made at the first call: `known` and a `password`.

        They wait for so many hours; 0: until they are revealed.
        """
        rows = self.database.read("SELECT ciphertext FROM secrets WHERE operation = ?", operation)
        if rows:
            return self._open(rows[0]["ciphertext"])
        held = {**known, "password": secrets.token_urlsafe(18)}
        with self.database.transaction() as transaction:
            transaction.execute(
                "INSERT INTO secrets VALUES (?,?,?,?,?)",
                (
                    operation,
                    tenant,
                    owner,
                    self._fernet.encrypt(json.dumps(held).encode()),
                    self.clock() + hours * 3600 if hours else math.inf,
                ),
            )
        return held

    @contextmanager
    def reveal(self, tenant: str, actor: str) -> Iterator[dict[str, str]]:
        """Hand the credentials out to their owner, and forget them once the body has shown them; or raise Refused."""
        row = self._waiting(tenant, actor)
        yield self._open(row["ciphertext"])
        with self.database.transaction() as transaction:
            transaction.execute("DELETE FROM secrets WHERE operation = ?", (row["operation"],))
            audit.record(
                transaction,
                audit.Event("credentials.revealed", actor, tenant, row["operation"]),
                self.clock(),
            )

    def refuse_unless_waiting(self, tenant: str, actor: str) -> None:
        """Raise Refused when reveal() would."""
        self._waiting(tenant, actor)

    def _waiting(self, tenant: str, actor: str) -> sqlite3.Row:
        rows = self.database.read(
            "SELECT s.operation, s.owner, s.ciphertext FROM secrets s JOIN operations o ON o.id = s.operation"
            " WHERE s.tenant = ? AND s.expires > ? AND o.state = 'succeeded' ORDER BY s.operation DESC LIMIT 1",
            tenant,
            self.clock(),
        )
        if not rows:
            raise Refused(
                f"No first login waits for `{tenant}`: it is shown once, and not kept for long. Who runs the bot's "
                "machine can set a new password: see “A lost first login” in `docs/production.md`."
            )
        if rows[0]["owner"] != actor:
            raise Refused(f"Only <@{rows[0]['owner']}>, who asked for `{tenant}`, can see its first credentials.")
        return rows[0]

    def purge(self) -> None:
        """Forget what nobody came for in time."""
        with self.database.transaction() as transaction:
            transaction.execute("DELETE FROM secrets WHERE expires <= ?", (self.clock(),))

    def forget(self, operation: int) -> None:
        """Forget the credentials of an operation that was undone."""
        with self.database.transaction() as transaction:
            transaction.execute("DELETE FROM secrets WHERE operation = ?", (operation,))

    def _open(self, ciphertext: bytes) -> dict[str, str]:
        try:
            held: dict[str, str] = json.loads(self._fernet.decrypt(ciphertext))
        except InvalidToken as error:
            raise Refused("The credentials cannot be read: the bot's key file has been replaced.") from error
        return held
