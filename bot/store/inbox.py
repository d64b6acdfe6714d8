"""Stores Slack deliveries before they are handled, so that a crash loses none and repeats none."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from bot.model.turns import Turns
from bot.store.database import Database, DatabaseUnavailable
from bot.store.uptime import Uptime

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
COURTESY = 1.0
"""Seconds that work lets those go first who only want to be acknowledged."""
LULL = 0.05
"""Seconds without an arrival after which of several that came at once no more are expected."""
STAGGER = 0.005
"""Seconds between two that begin after they let others go first: all at once they would hold up the next ones."""
PAUSE = 2.0
"""Seconds until a delivery is tried again for which the database could not be written."""
OF_ONE = 50
"""Deliveries of one person that may wait or be worked on: no more are taken."""
PATIENCE = 60.0
"""Seconds between two times that somebody is told of that."""


def forget(database: Database, uptime: Uptime) -> None:
    """Forget the deliveries that were handled long ago."""
    with database.transaction() as transaction:
        transaction.execute("DELETE FROM inbox WHERE done < ?", (uptime.before(KEEP),))


def close(transaction: sqlite3.Connection, key: str, now: float) -> None:
    """Close a delivery, with the change that it made or the refusal that is told of it: it is never done again."""
    transaction.execute("UPDATE inbox SET done = ?, payload = '' WHERE key = ? AND done IS NULL", (now, key))


@dataclass
class _Delivery:
    """One delivery on its way into the table, and then to who works on it; `row` stays 0 for a duplicate.

    `age`: seconds old when it came, as one that was taken up at a start; `came`: when that was, by the time uptime.
    """

    kind: str
    key: str
    payload: dict[str, Any]
    row: int = 0
    age: float = 0.0
    came: float = 0.0
    taken_up: bool = False


class Inbox:
    """The table of deliveries and the workers on it.

    Args:
        handle: works on a delivery, `handle(kind, key, payload)`; `payload["late"]` says how many seconds old it is,
            `payload["taken_up"]` whether an earlier process left it. It raises DatabaseUnavailable where nothing was
            recorded and nobody was told; then it is called again. It raises nothing else.
        lane: whose workers a delivery is for, `lane(kind, payload)`; never raises.
        excuse: tells who sent a delivery why it is not worked on now, `crowd` or `database`; never raises.

    What one person sends is worked on side by side, in no order: a decision is taken once, whichever comes first.
    People take turns.
    """

    def __init__(
        self,
        database: Database,
        handle: Callable[[str, str, dict[str, Any]], None],
        lane: Callable[[str, dict[str, Any]], Lane] = lambda kind, payload: "change",
        workers: Mapping[Lane, int] = WORKERS,
        courtesy: float = COURTESY,
        excuse: Callable[[dict[str, Any], str], None] = lambda payload, why: None,
        uptime: Uptime | None = None,
    ) -> None:
        self.database = database
        self.handle = handle
        self.lane = lane
        self.courtesy = courtesy
        self.excuse = excuse
        self.uptime = uptime or Uptime(database)
        self._sorter = ThreadPoolExecutor(1, "sorter")
        self._pools = {lane: ThreadPoolExecutor(number, lane) for lane, number in workers.items()}
        # One person holds up to half of the workers: the others need not wait for what hangs.
        self._turns: dict[Lane, Turns[_Delivery]] = {
            lane: Turns(max(1, number // 2)) for lane, number in workers.items()
        }
        self._lock = threading.Lock()
        self._lull = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._arriving = 0
        self._crowded = -math.inf
        """When somebody came last while others were arriving; monotonic seconds."""
        self._next = 0.0
        """When the next that let others go first may begin; monotonic seconds."""
        self._taken: dict[int, str] = {}
        """Whose each row is that waits or is worked on."""
        self._excused: dict[str, float] = {}

    def put(self, kind: str, key: str, payload: dict[str, Any]) -> bool:
        """Write a delivery down and have it worked on; False when it was here before, or is one too many.

        It is on disk by then. Deliveries that come together share one commit, and with them what ends.
        """
        mine = _Delivery(kind, key, payload, came=self.uptime.now())
        if self._is_one_too_many(mine):
            return False
        row = mine.key, mine.kind, json.dumps(mine.payload), time.time(), mine.came

        def insert(transaction: sqlite3.Connection) -> int:
            cursor = transaction.execute(
                "INSERT OR IGNORE INTO inbox (key, kind, payload, received, lived) VALUES (?,?,?,?,?)", row
            )
            return int(cursor.lastrowid or 0) if cursor.rowcount == 1 else 0

        with self._lock:
            self._arriving += 1
            if self._arriving > 1:
                self._crowded = time.monotonic()
        try:
            mine.row = self.database.together(insert)
        finally:
            with self._lull:
                self._arriving -= 1
                if not self._arriving:
                    self._lull.notify_all()
        if not mine.row:
            return False
        self._submit(mine)
        return True

    def _is_one_too_many(self, one: _Delivery) -> bool:
        """Whether so much of one person waits that no more is taken; they are told so, once in a while."""
        person, now = _person(one.payload), time.monotonic()
        with self._lock:
            if list(self._taken.values()).count(person) < OF_ONE:
                return False
            told = now - self._excused.get(person, -math.inf) < PATIENCE
            if not told:
                self._excused[person] = now
        if not told:
            # Not here: the acknowledgement waits.
            self._pools["quick"].submit(self.excuse, one.payload, "crowd")
        return True

    def _submit(self, one: _Delivery) -> None:
        with self._lock:
            if one.row in self._taken:
                return
            self._taken[one.row] = _person(one.payload)
        try:
            # Not here: the acknowledgement waits.
            self._sorter.submit(self._sort, one, time.monotonic() + self.courtesy)
        except RuntimeError:
            self._left(one)
            raise

    def _sort(self, one: _Delivery, latest: float) -> None:
        """Give it to the workers of its lane, at the next lull or then at the latest (monotonic seconds)."""
        with self._lull:
            self._await_lull(latest)
        lane = self.lane(one.kind, one.payload)
        with self._lock:
            self._turns[lane].add(_person(one.payload), one)
        try:
            self._pools[lane].submit(self._serve, lane)
        except RuntimeError:
            self._left(one)

    def _left(self, one: _Delivery) -> None:
        """The bot stops; it is taken up at the next start."""
        with self._ended:
            self._taken.pop(one.row, None)
            self._ended.notify_all()

    def _serve(self, lane: Lane) -> None:
        """Work on whoever's turn it is, until it is nobody's: whom their own held up is served when that is done."""
        while True:
            with self._lock:
                found = self._turns[lane].take()
            if found is None:
                return
            person, one = found
            try:
                self._work(one)
            except Exception:
                # It stays open and is taken up again at the next start.
                log.exception("delivery %s could not be closed", one.row)
            finally:
                with self._ended:
                    self._turns[lane].done(person)
                    self._taken.pop(one.row, None)
                    self._ended.notify_all()

    def _work(self, one: _Delivery) -> None:
        self._give_way()
        self._until_recorded(
            one,
            lambda: self.handle(one.kind, one.key, self._as_it_is(one)),
            lambda: self.excuse(one.payload, "database"),
        )
        # What was done is done, and only its end is to be written down yet.
        self._until_recorded(one, lambda: self._close(one), lambda: None)

    def _give_way(self) -> None:
        """Let those go first who only want to be acknowledged; many that did so then begin one after the other."""
        with self._lull:
            if not self._await_lull(time.monotonic() + self.courtesy):
                return
            now = time.monotonic()
            begins = max(now, self._next)
            self._next = begins + STAGGER
        time.sleep(begins - now)

    def _await_lull(self, latest: float) -> bool:
        """Wait until nobody comes, and of several nobody has come for a moment, or until `latest` (monotonic).

        Returns whether it waited. The lock is held, but while it waits.
        """
        waited = False
        while (now := time.monotonic()) < latest:
            left = latest - now if self._arriving else min(latest, self._crowded + LULL) - now
            if left <= 0:
                break
            waited = True
            self._lull.wait(left)
        return waited

    def _as_it_is(self, one: _Delivery) -> dict[str, Any]:
        # Slack's own tries to deliver it may have taken minutes.
        late = one.age + self.uptime.now() - one.came + float(one.payload.get("age", 0))
        return one.payload | {"late": late} | ({"taken_up": True} if one.taken_up else {})

    def _close(self, one: _Delivery) -> None:
        now = time.time()
        self.database.together(lambda transaction: close(transaction, one.key, now))

    def _until_recorded(self, one: _Delivery, do: Callable[[], None], excuse: Callable[[], None]) -> None:
        """Do it, again and again while the database cannot be written; `excuse` is called once if it has to wait."""
        waits = False
        while True:
            try:
                do()
                return
            except DatabaseUnavailable as error:
                log.warning("delivery %s waits for the database: %s", one.row, error)
                if not waits:
                    waits = True
                    excuse()
                if self._stopping.wait(PAUSE):
                    raise

    def recover(self) -> None:
        """After a start: work on what a crash left open, as old as it is by any clock."""
        now, lived = time.time(), self.uptime.now()
        for row in self.database.read("SELECT * FROM inbox WHERE done IS NULL ORDER BY id"):
            age = max(now - row["received"], lived - row["lived"] if row["lived"] else 0.0)
            payload = json.loads(row["payload"])
            self._submit(_Delivery(row["kind"], row["key"], payload, row["id"], age=age, came=lived, taken_up=True))

    def stop(self, timeout: float = 30.0) -> None:
        """Finish what is in hand; what takes longer stays open, and is taken up at the next start."""
        self._sorter.shutdown()
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        with self._ended:
            self._ended.wait_for(lambda: not self._taken, timeout)
        self._stopping.set()


def _person(payload: Mapping[str, Any]) -> str:
    return str(payload.get("user", ""))
