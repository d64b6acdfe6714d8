"""Time that was lived through, whatever somebody sets the machine's clock to.

A clock that is 40 days ahead must not end what is kept for 30. So the seconds that pass are counted by a clock that
nobody sets (the kernel's, from boot on, sleep included), and go on in the database from one start of the bot to the
next. How far the wall clock was ahead of that count is noted too, in *stretches* in which it went evenly: they tell of
any moment that was written down by the wall clock how much has certainly been lived through since. What passes while
the machine is off is not lived through: what is kept stays the longer for it.
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
"""Seconds by which the wall clock may move against the other before a new stretch begins."""
JUMP = 3600.0
"""Seconds from which on a step of the wall clock is told, and what goes by the calendar waits."""
LOOK_AGAIN = 6 * 3600.0
"""Seconds lived through between the two looks that it takes to end something for good."""
STRETCHES = 1000
"""Stretches that are remembered; what was before them counts as not lived through."""


@dataclass
class Stretch:
    """A time in which the wall clock went evenly: from and until which second lived through, and how far ahead of it.

    Two neighbours overlap by the moments in between: a step is seen some seconds after it was made.
    """

    began: float
    ended: float
    ahead: float


@cache
def _boot() -> str:
    """Return which boot of the machine this is: the same for as long as the process lives."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def ticks() -> tuple[str, float]:
    """Return which boot of the machine this is, and the seconds since then."""
    return _boot(), time.clock_gettime(time.CLOCK_BOOTTIME)


class Uptime:
    """The count, over a database. `note` writes it down; who only asks writes nothing.

    Args:
        wall: epoch seconds, as anybody may set them.
        ticks: which boot this is, and its seconds, which nobody sets.
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
        """What `ticks` told at a moment of this boot, and `_counted` was lived through by then."""
        self._counted = 0.0
        self._unwritten = 0
        """Stretches, of the newest, that the database does not know as they are."""

    def now(self) -> float:
        """Return the seconds lived through since the database began."""
        with self._lock:
            return self._advance()

    def before(self, age: float) -> float:
        """Return the moment of the wall clock until which all that was written down is at least so many seconds old.

        By every clock: the wall's own, and the time lived through. -inf when so much has not been lived through yet.
        """
        with self._lock:
            since = self._advance() - age
            if since < self._stretches[0].began:
                return -math.inf
            # Of a stretch that began later, already its first moment is too young.
            later = [
                since + one.ahead if one.began <= since else math.nextafter(one.began + one.ahead, -math.inf)
                for one in self._stretches
                if one.ended >= since
            ]
            return min(self.wall() - age, *later)

    def step(self) -> tuple[float, float]:
        """Return by how many seconds the wall clock was last set, or stood still, and how many were lived since then.

        (0, inf) when it never was, by more than JUMP.
        """
        with self._lock:
            now = self._advance()
            pairs = list(zip(self._stretches, self._stretches[1:], strict=False))
        for before, after in reversed(pairs):
            if abs(after.ahead - before.ahead) > JUMP:
                return after.ahead - before.ahead, now - after.began
        return 0.0, math.inf

    def is_steady(self) -> bool:
        """Whether the wall clock can be gone by: it was not set within the last hours."""
        return self.step()[1] >= LOOK_AGAIN

    def confirmed(self, kind: str, found: Collection[str], after: float = LOOK_AGAIN) -> set[str]:
        """Return those of what is found now that were found so many lived seconds ago already, and ever since.

        Each look names all there is of its kind: what is not found this time begins anew.
        """
        return {one for one, age in self.found(kind, found).items() if age >= after}

    def found(self, kind: str, found: Collection[str]) -> dict[str, float]:
        """Return for how many lived seconds each of what is found now has been found, as `confirmed` looks at it."""
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
        """Return from which lived second on something has been found; None: it is not found."""
        rows = self.database.read("SELECT since FROM second_looks WHERE kind = ? AND subject = ?", kind, subject)
        return float(rows[0]["since"]) if rows else None

    def note(self) -> None:
        """Write the count down; what is not written down is not counted over the machine's next boot."""
        with self._lock:
            counted = self._advance()
            boot, at = self._boot, self._from + counted - self._counted
            newest = [(one.began, one.ended, one.ahead) for one in self._stretches[-self._unwritten :]]
        with self.database.transaction() as transaction:
            transaction.execute("INSERT OR REPLACE INTO lived VALUES (1,?,?,?)", (boot, at, counted))
            # Of a stretch its end grows, and its beginning tells which one it is.
            transaction.executemany("INSERT OR REPLACE INTO stretches VALUES (?,?,?)", newest)
            transaction.execute(
                "DELETE FROM stretches WHERE began NOT IN (SELECT began FROM stretches ORDER BY began DESC LIMIT ?)",
                (STRETCHES,),
            )
        with self._lock:
            self._unwritten = max(1, self._unwritten - len(newest) + 1)

    def _advance(self) -> float:
        """Count on to this moment; begin a new stretch where the wall clock has left the last one."""
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
            # No two begin together, as that is what tells them apart.
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
        # The last one grows.
        self._unwritten = min(1, len(self._stretches))
