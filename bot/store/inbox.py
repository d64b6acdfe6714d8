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
"""Seconds that the key of a handled delivery is kept, to recognise duplicates (Slack retries for minutes)."""

Lane = Literal["quick", "decision", "change", "question"]
"""Which pool of workers handles a delivery, so that no delivery waits behind slower ones.

`quick`: asks no server: opens a window, for which Slack gives three seconds, denies or cancels. `decision`: approves,
for which the plan is built again. `change`: requests a change, and its planning may look into a tenant, which may
answer late. `question`: only looks, also into tenants.
"""
WORKERS: Mapping[Lane, int] = {"quick": 4, "decision": 4, "change": 8, "question": 8}
COURTESY = 1.0
"""Seconds at most that workers let arriving deliveries be acknowledged first."""
LULL = 0.05
"""Seconds without an arrival after which a burst of deliveries counts as over."""
STAGGER = 0.005
"""Seconds between the starts of deliveries after a burst: all at once they would delay the next arrivals."""
PAUSE = 2.0
"""Seconds until a delivery is tried again after the database could not be written."""
OF_ONE = 50
"""Deliveries of one person that may wait or be in progress; no more are taken."""
PATIENCE = 60.0
"""Seconds between two messages to a person that no more of their deliveries are taken."""


def forget(database: Database, uptime: Uptime) -> None:
    """Delete the deliveries that were handled more than `KEEP` seconds ago."""
    with database.transaction() as transaction:
        transaction.execute("DELETE FROM inbox WHERE done < ?", (uptime.before(KEEP),))


def close(transaction: sqlite3.Connection, key: str, now: float) -> None:
    """Close a delivery in the transaction of its change or refusal, so that the delivery is never handled again."""
    transaction.execute("UPDATE inbox SET done = ?, payload = '' WHERE key = ? AND done IS NULL", (now, key))


@dataclass
class _Delivery:
    """One delivery on its way into the table, and then to a worker; `row` stays 0 for a duplicate.

    `came`: when this process took it, by uptime; `age`: how many seconds old it was then, if an earlier process had
    left it (`taken_up`).
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
        handle: handles a delivery, `handle(kind, key, payload)`; `payload["late"]` says how many seconds old it is,
            `payload["taken_up"]` whether an earlier process left it. It raises DatabaseUnavailable if nothing was
            recorded and nobody was answered; then it is called again. It raises nothing else.
        lane: returns the lane of a delivery, `lane(kind, payload)`; never raises.
        excuse: tells the sender of a delivery why it is not handled now, `crowd` or `database`; never raises.

    Deliveries of one person are handled concurrently, in no order: a decision is taken once, whichever comes first.
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
        # One person gets up to half of the workers, so that others do not wait for deliveries that hang.
        self._turns: dict[Lane, Turns[_Delivery]] = {
            lane: Turns(max(1, number // 2)) for lane, number in workers.items()
        }
        self._lock = threading.Lock()
        self._lull = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._arriving = 0
        self._crowded = -math.inf
        """When a delivery last arrived while others were arriving; monotonic seconds."""
        self._next = 0.0
        """When the next delivery that waited for the end of a burst may begin; monotonic seconds."""
        self._taken: dict[int, str] = {}
        """The sender of each row that waits or is in progress."""
        self._excused: dict[str, float] = {}

    def put(self, kind: str, key: str, payload: dict[str, Any]) -> bool:
        """Store a delivery and pass it to the workers; return False for a duplicate, or if its sender has too many.

        The delivery is on disk by then. Concurrent deliveries share one commit with each other and with those that end.
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
        """Whether a person has so many open deliveries that no more are taken; tell them so, once per `PATIENCE`."""
        person, now = _person(one.payload), time.monotonic()
        with self._lock:
            if list(self._taken.values()).count(person) < OF_ONE:
                return False
            told = now - self._excused.get(person, -math.inf) < PATIENCE
            if not told:
                self._excused[person] = now
        if not told:
            # In another thread, because the acknowledgement waits for this one.
            self._pools["quick"].submit(self.excuse, one.payload, "crowd")
        return True

    def _submit(self, one: _Delivery) -> None:
        with self._lock:
            if one.row in self._taken:
                return
            self._taken[one.row] = _person(one.payload)
        try:
            # In another thread, because the acknowledgement waits for this one.
            self._sorter.submit(self._sort, one, time.monotonic() + self.courtesy)
        except RuntimeError:
            self._left(one)
            raise

    def _sort(self, one: _Delivery, latest: float) -> None:
        """Give a delivery to the workers of its lane, once a burst is over or at `latest` (monotonic seconds)."""
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
        """Drop a delivery because the bot is stopping; the next start takes it up."""
        with self._ended:
            self._taken.pop(one.row, None)
            self._ended.notify_all()

    def _serve(self, lane: Lane) -> None:
        """Handle deliveries by turns until none may be taken; one beyond its sender's share waits for one of theirs."""
        while True:
            with self._lock:
                found = self._turns[lane].take()
            if found is None:
                return
            person, one = found
            try:
                self._work(one)
            except Exception:
                # The delivery stays open and is taken up at the next start.
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
        # The work is done; only its end is still to be recorded.
        self._until_recorded(one, lambda: self._close(one), lambda: None)

    def _give_way(self) -> None:
        """Let arriving deliveries be acknowledged first; workers that waited for it then begin one after the other."""
        with self._lull:
            if not self._await_lull(time.monotonic() + self.courtesy):
                return
            now = time.monotonic()
            begins = max(now, self._next)
            self._next = begins + STAGGER
        time.sleep(begins - now)

    def _await_lull(self, latest: float) -> bool:
        """Wait until no delivery is arriving and a burst is over, or until `latest` (monotonic seconds).

        Return whether it waited. The caller holds the lock, which is released while waiting.
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
        # `age` in the payload: Slack's own attempts to deliver may have taken minutes.
        late = one.age + self.uptime.now() - one.came + float(one.payload.get("age", 0))
        return one.payload | {"late": late} | ({"taken_up": True} if one.taken_up else {})

    def _close(self, one: _Delivery) -> None:
        now = time.time()
        self.database.together(lambda transaction: close(transaction, one.key, now))

    def _until_recorded(self, one: _Delivery, do: Callable[[], None], excuse: Callable[[], None]) -> None:
        """Call `do` again and again while the database cannot be written; call `excuse` once if it has to wait."""
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
        """After a start: take up what a crash left open; its age is the greater one of wall clock and uptime."""
        now, lived = time.time(), self.uptime.now()
        for row in self.database.read("SELECT * FROM inbox WHERE done IS NULL ORDER BY id"):
            age = max(now - row["received"], lived - row["lived"] if row["lived"] else 0.0)
            payload = json.loads(row["payload"])
            self._submit(_Delivery(row["kind"], row["key"], payload, row["id"], age=age, came=lived, taken_up=True))

    def stop(self, timeout: float = 30.0) -> None:
        """Finish the deliveries in progress; what takes longer than `timeout` seconds is taken up at the next start."""
        self._sorter.shutdown()
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        with self._ended:
            self._ended.wait_for(lambda: not self._taken, timeout)
        self._stopping.set()


def _person(payload: Mapping[str, Any]) -> str:
    return str(payload.get("user", ""))
