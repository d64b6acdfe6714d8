"""Counts elapsed time independently of the wall clock, which anybody may set.

A clock that is 40 days ahead must not delete what is kept for 30. So the bot counts seconds by a clock that nobody can
set (the kernel's boot clock, which includes sleep) and continues the count in the database from one start of the bot to
the next. It also records how far the wall clock was ahead of that count, in *stretches* in which it ran evenly: they
tell how much time has certainly elapsed since any moment that was recorded by the wall clock. Time while the machine is
off is not counted: it only makes things be kept for longer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bot.store.database import Database

EVEN = 60.0
"""Seconds by which the wall clock may drift from the count before a new stretch begins."""
JUMP = 3600.0
"""Seconds from which on a step of the wall clock is reported, and work that goes by the calendar waits."""
LOOK_AGAIN = 6 * 3600.0
"""Elapsed seconds between the two looks that it takes to end something for good."""
STRETCHES = 1000
"""Stretches that are remembered; time before them counts as not elapsed."""


@dataclass
class Stretch:
    """A time in which the wall clock ran evenly: its first and last elapsed second, and how far the clock was ahead.

    Two neighbours overlap by the time between two readings, because a step is seen some seconds after it was made.
    """

    began: float
    ended: float
    ahead: float


@cache
def _boot() -> str:
    """Return the id of the machine's boot, which cannot change while the process lives."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def ticks() -> tuple[str, float]:
    """Return the id of the machine's boot, and the seconds since then."""
    return _boot(), time.clock_gettime(time.CLOCK_BOOTTIME)


class Uptime:
    """The count of elapsed seconds, kept in a database.

    `note` saves the count; `confirmed` and `found` record what was found; the other methods write nothing.

    Args:
        wall: returns epoch seconds, by a clock that anybody may set.
        ticks: returns the id of the boot, and seconds since then, by a clock that nobody can set.
    """

    def __init__(
        self,
        database: Database,
        wall: Callable[[], float] = time.time,
        ticks: Callable[[], tuple[str, float]] = ticks,
    ) -> None:
        self.database = database
        self.wall = wall
        self.ticks = ticks
        self._lock = threading.Lock()
        self._stretches: list[Stretch] = []
        self._boot = ""
        self._from = 0.0
        """What `ticks` returned at a moment of this boot; `_counted` seconds had elapsed by then."""
        self._counted = 0.0
        self._unwritten = 0
        """How many of the newest stretches the database does not have in their present form."""

    def now(self) -> float:
        """Return the elapsed seconds that were counted since the database was created."""
        with self._lock:
            return self._advance()

    def before(self, age: float) -> float:
        """Return the wall-clock time until which everything that was recorded is at least `age` seconds old.

        It is so old both by the wall clock and in elapsed time. -inf if less than `age` was counted and is remembered.
        """
        with self._lock:
            since = self._advance() - age
            if since < self._stretches[0].began:
                return -math.inf
            # Even the first moment of a stretch that began later is too recent.
            later = [
                since + one.ahead if one.began <= since else math.nextafter(one.began + one.ahead, -math.inf)
                for one in self._stretches
                if one.ended >= since
            ]
            return min(self.wall() - age, *later)

    def step(self) -> tuple[float, float]:
        """Return the last step of the wall clock against the count, in seconds, and the elapsed seconds since then.

        Somebody set the clock, or the machine was off for that long. (0, inf) if there was no step of more than JUMP.
        """
        with self._lock:
            now = self._advance()
            pairs = list(zip(self._stretches, self._stretches[1:], strict=False))
        for before, after in reversed(pairs):
            if abs(after.ahead - before.ahead) > JUMP:
                return after.ahead - before.ahead, now - after.began
        return 0.0, math.inf

    def is_steady(self) -> bool:
        """Whether the wall clock can be trusted: its last step is at least LOOK_AGAIN elapsed seconds ago."""
        return self.step()[1] >= LOOK_AGAIN

    def confirmed(self, kind: str, found: Collection[str], after: float = LOOK_AGAIN) -> set[str]:
        """Return those of `found` that have been found at every look for at least `after` elapsed seconds.

        Each look names everything found of its `kind`: what is missing from a look starts again.
        """
        return {one for one, age in self.found(kind, found).items() if age >= after}

    def found(self, kind: str, found: Collection[str]) -> dict[str, float]:
        """Return for how many elapsed seconds each of `found` has been found at every look, as in `confirmed`."""
        now = self.now()
        rows = self.database.read("SELECT subject, since FROM second_looks WHERE kind = ?", kind)
        known = {row["subject"]: row["since"] for row in rows}
        if known.keys() != set(found):
            with self.database.transaction() as transaction:
                transaction.executemany(
                    "DELETE FROM second_looks WHERE kind = ? AND subject = ?",
                    [(kind, gone) for gone in known.keys() - set(found)],
                )
                transaction.executemany(
                    "INSERT OR IGNORE INTO second_looks VALUES (?,?,?)",
                    [(kind, new, now) for new in set(found) - known.keys()],
                )
        return {one: now - known.get(one, now) for one in found}

    def since(self, kind: str, subject: str) -> float | None:
        """Return the elapsed second (`now`) from which on something has been found by each look; None: it is not."""
        rows = self.database.read("SELECT since FROM second_looks WHERE kind = ? AND subject = ?", kind, subject)
        return float(rows[0]["since"]) if rows else None

    def note(self) -> None:
        """Save the count; time that is not saved is lost at the machine's next boot."""
        with self._lock:
            counted = self._advance()
            boot, at = self._boot, self._from + counted - self._counted
            newest = [(one.began, one.ended, one.ahead) for one in self._stretches[-self._unwritten :]]
        with self.database.transaction() as transaction:
            transaction.execute("INSERT OR REPLACE INTO lived VALUES (1,?,?,?)", (boot, at, counted))
            # The end of a stretch grows; its beginning identifies it.
            transaction.executemany("INSERT OR REPLACE INTO stretches VALUES (?,?,?)", newest)
            transaction.execute(
                "DELETE FROM stretches WHERE began NOT IN (SELECT began FROM stretches ORDER BY began DESC LIMIT ?)",
                (STRETCHES,),
            )
        with self._lock:
            self._unwritten = max(1, self._unwritten - len(newest) + 1)

    def _advance(self) -> float:
        """Advance the count to this moment; begin a new stretch if the wall clock has left the last one."""
        boot, at = self.ticks()
        if not self._stretches:
            self._load()
        if boot != self._boot or at < self._from:
            self._boot, self._from = boot, at
        now = self._counted + at - self._from
        ahead = self.wall() - now
        if not self._stretches:
            self._stretches.append(Stretch(now, now, ahead))
            self._unwritten += 1
        last = self._stretches[-1]
        if abs(ahead - last.ahead) > EVEN:
            # No two stretches begin together, because their beginning identifies them.
            began = max(last.ended, math.nextafter(last.began, math.inf))
            self._stretches.append(Stretch(began, now, ahead))
            self._unwritten += 1
        last.ended = self._stretches[-1].ended = now
        self._counted, self._from = now, at
        return now

    def _load(self) -> None:
        for row in self.database.read("SELECT * FROM lived"):
            self._boot, self._from, self._counted = row["boot"], row["ticks"], row["seconds"]
        rows = self.database.read("SELECT * FROM stretches ORDER BY began")
        self._stretches = [Stretch(row["began"], row["ended"], row["ahead"]) for row in rows]
        # The last stretch grows, so it is written again.
        self._unwritten = min(1, len(self._stretches))
