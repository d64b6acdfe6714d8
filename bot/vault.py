"""First credentials: held encrypted until their one reveal to the person who asked for the tenant."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
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
        try:
            handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(Fernet.generate_key())
        except FileExistsError:
            pass
        self._fernet = Fernet(key_file.read_bytes())

    def ensure(self, operation: int, tenant: str, owner: str, hours: float, **known: str) -> dict[str, str]:
        """Return the credentials of an operation, made at the first call: `known` and a `password`."""
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
                    self.clock() + hours * 3600,
                ),
            )
        return held

    def reveal(self, tenant: str, actor: str) -> dict[str, str]:
        """Hand the credentials out, once, to their owner, and forget them; or raise Refused."""
        self.purge()
        with self.database.transaction() as transaction:
            row = transaction.execute(
                "SELECT s.operation, s.owner, s.ciphertext FROM secrets s JOIN operations o ON o.id = s.operation"
                " WHERE s.tenant = ? AND o.state = 'succeeded' ORDER BY s.operation DESC",
                (tenant,),
            ).fetchone()
            if not row:
                raise Refused(
                    f"There are no credentials waiting for `{tenant}`: they are shown once, and not kept for long. "
                    "Mautic's own “forgot password” makes new ones."
                )
            if row["owner"] != actor:
                raise Refused(f"Only <@{row['owner']}>, who asked for `{tenant}`, can see its first credentials.")
            held = self._open(row["ciphertext"])
            transaction.execute("DELETE FROM secrets WHERE operation = ?", (row["operation"],))
            audit.record(
                transaction,
                audit.Event("credentials.revealed", actor, tenant, row["operation"]),
                self.clock(),
            )
        return held

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
