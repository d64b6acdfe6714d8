"""What Slack delivered, written down before it is worked on: no delivery is lost by a crash, none is done twice."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bot.database import Database

log = logging.getLogger(__name__)
KEEP = 86_400.0
"""Seconds that a handled delivery is kept, to know its duplicates (Slack retries for minutes)."""


class Inbox:
    """The table of deliveries and the workers on it. `handle(kind, key, payload)` never raises."""

    def __init__(
        self, database: Database, handle: Callable[[str, str, dict[str, Any]], None], workers: int = 4
    ) -> None:
        self.database = database
        self.handle = handle
        self._pool = ThreadPoolExecutor(workers, "inbox")
        self._lock = threading.Lock()
        self._taken: set[int] = set()

    def put(self, kind: str, key: str, payload: dict[str, Any]) -> bool:
        """Write a delivery down and have it worked on; False when it was here before."""
        with self.database.transaction() as transaction:
            cursor = transaction.execute(
                "INSERT OR IGNORE INTO inbox (key, kind, payload, received) VALUES (?,?,?,?)",
                (key, kind, json.dumps(payload), time.time()),
            )
        if cursor.rowcount != 1:
            return False
        self._submit(int(cursor.lastrowid or 0), kind, key, payload)
        return True

    def _submit(self, row: int, kind: str, key: str, payload: dict[str, Any]) -> None:
        with self._lock:
            if row in self._taken:
                return
            self._taken.add(row)
        self._pool.submit(self._work, row, kind, key, payload)

    def _work(self, row: int, kind: str, key: str, payload: dict[str, Any]) -> None:
        try:
            self.handle(kind, key, payload)
            with self.database.transaction() as transaction:
                transaction.execute("UPDATE inbox SET done = ? WHERE id = ?", (time.time(), row))
        except Exception:
            # It stays open and is taken up again at the next start.
            log.exception("delivery %s could not be closed", row)
        finally:
            with self._lock:
                self._taken.discard(row)

    def recover(self) -> None:
        """After a start: work on what a crash left open, and forget what is long done."""
        with self.database.transaction() as transaction:
            transaction.execute("DELETE FROM inbox WHERE done < ?", (time.time() - KEEP,))
        for row in self.database.read("SELECT id, kind, key, payload FROM inbox WHERE done IS NULL ORDER BY id"):
            self._submit(row["id"], row["kind"], row["key"], json.loads(row["payload"]))

    def stop(self) -> None:
        """Finish what is in hand."""
        self._pool.shutdown(wait=True)
