"""What Slack delivered, written down before it is worked on: no delivery is lost by a crash, none is done twice."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

from bot.database import Database
from bot.lived import Lived

log = logging.getLogger(__name__)
KEEP = 86_400.0
"""Seconds that the key of a handled delivery is kept, to know its duplicates (Slack retries for minutes)."""

Lane = Literal["quick", "decision", "change", "question"]
"""Whose workers a delivery is for, so that none waits behind what takes longer.

`quick`: asks no server: it opens a window, for which Slack gives three seconds, denies or withdraws. `decision`:
approves, for which the plan is built again. `change`: asks for one, and what is planned may look into a tenant, which
answers when it will. `question`: looks, into tenants too.
"""
WORKERS: Mapping[Lane, int] = {"quick": 4, "decision": 4, "change": 8, "question": 8}
COURTESY = 0.25
"""Seconds that work lets those go first who only want to be acknowledged."""


def forget(database: Database, lived: Lived) -> None:
    """Forget the deliveries that were handled long ago."""
    with database.transaction() as transaction:
        transaction.execute("DELETE FROM inbox WHERE done < ?", (lived.before(KEEP),))


@dataclass
class _Delivery:
    """One delivery on its way into the table; `row` stays 0 for a duplicate."""

    kind: str
    key: str
    payload: dict[str, Any]
    row: int = 0
    done: bool = False
    error: Exception | None = None


class Inbox:
    """The table of deliveries and the workers on it.

    `handle(kind, key, payload)` and `lane(kind, payload)` never raise.
    What one person sends is worked on side by side, in no order: a decision is taken once, whichever comes first.
    """

    def __init__(
        self,
        database: Database,
        handle: Callable[[str, str, dict[str, Any]], None],
        lane: Callable[[str, dict[str, Any]], Lane] = lambda kind, payload: "change",
        workers: Mapping[Lane, int] = WORKERS,
        courtesy: float = COURTESY,
    ) -> None:
        self.database = database
        self.handle = handle
        self.lane = lane
        self.courtesy = courtesy
        self._pools = {lane: ThreadPoolExecutor(number, lane) for lane, number in workers.items()}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._lull = threading.Condition(self._lock)
        self._arriving = 0
        self._waiting: list[_Delivery] = []
        self._taken: dict[int, Future[None]] = {}

    def put(self, kind: str, key: str, payload: dict[str, Any]) -> bool:
        """Write a delivery down and have it worked on; False when it was here before.

        Deliveries that come together share one commit: the first to get the lock writes all that wait by then.
        """
        mine = _Delivery(kind, key, payload)
        with self._lock:
            self._waiting.append(mine)
            self._arriving += 1
        try:
            with self._writing:
                if not mine.done:
                    with self._lock:
                        together, self._waiting = self._waiting, []
                    self._write(together)
        finally:
            with self._lull:
                self._arriving -= 1
                if not self._arriving:
                    self._lull.notify_all()
        if mine.error:
            raise mine.error
        if not mine.row:
            return False
        self._submit(mine.row, kind, key, payload)
        return True

    def _write(self, together: list[_Delivery]) -> None:
        now = time.time()
        try:
            with self.database.transaction() as transaction:
                for one in together:
                    cursor = transaction.execute(
                        "INSERT OR IGNORE INTO inbox (key, kind, payload, received) VALUES (?,?,?,?)",
                        (one.key, one.kind, json.dumps(one.payload), now),
                    )
                    one.row = int(cursor.lastrowid or 0) if cursor.rowcount == 1 else 0
        except Exception as error:
            for one in together:
                one.error = error
        for one in together:
            one.done = True

    def _submit(self, row: int, kind: str, key: str, payload: dict[str, Any]) -> None:
        with self._lock:
            if row not in self._taken:
                pool = self._pools[self.lane(kind, payload)]
                self._taken[row] = pool.submit(self._work, row, kind, key, payload)

    def _work(self, row: int, kind: str, key: str, payload: dict[str, Any]) -> None:
        with self._lull:
            self._lull.wait_for(lambda: not self._arriving, self.courtesy)
        try:
            self.handle(kind, key, payload)
            with self.database.transaction() as transaction:
                transaction.execute("UPDATE inbox SET done = ?, payload = '' WHERE id = ?", (time.time(), row))
        except Exception:
            # It stays open and is taken up again at the next start.
            log.exception("delivery %s could not be closed", row)
        finally:
            with self._lock:
                self._taken.pop(row)

    def recover(self) -> None:
        """After a start: work on what a crash left open; `late` in a payload says how many seconds after it came."""
        now = time.time()
        for row in self.database.read("SELECT * FROM inbox WHERE done IS NULL ORDER BY id"):
            payload = json.loads(row["payload"]) | {"late": now - row["received"]}
            self._submit(row["id"], row["kind"], row["key"], payload)

    def stop(self, timeout: float = 30.0) -> None:
        """Finish what is in hand; what takes longer stays open, and is taken up at the next start."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        with self._lock:
            left = list(self._taken.values())
        wait(left, timeout)
