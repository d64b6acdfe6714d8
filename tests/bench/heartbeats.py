"""Finds out which runs of Mautic's jobs were due, and which of them left no heartbeat in time."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bot.lxd.gateway import LxdGateway

GRACE = 60
"""Seconds after its scheduled time and its spread at which a heartbeat is late."""
_PAUSE = 10.0
"""Seconds between two looks: less than between two heartbeats of one job."""
_JOB = re.compile(r"([\d*/,-]+) +([\d*/,-]+) +\* +\* +(\S+) +www-data mautic-cron (\d+) \d+ (\S+)")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True)
class Job:
    """A line of the crontab. `spread`: seconds by which a tenant may delay it."""

    command: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    spread: int

    def due(self, since: float, until: float) -> Iterator[int]:
        """Yield the times (epoch seconds) at which it was due and whose heartbeat had to exist by `until`."""
        for at in range(-(-int(since) // 60) * 60, int(until) - self.spread - GRACE + 1, 60):
            moment = time.gmtime(at)
            # cron counts from Sunday.
            day = (moment.tm_wday + 1) % 7
            if moment.tm_min in self.minutes and moment.tm_hour in self.hours and day in self.days:
                yield at


@dataclass(frozen=True)
class Beat:
    """A heartbeat: when the job began and ended (epoch seconds), and whether it ended well or had nothing to do."""

    start: int
    end: int
    well: bool


def jobs(crontab: str) -> list[Job]:
    """Return Mautic's jobs in a tenant's crontab."""
    found = (_JOB.match(line) for line in crontab.splitlines())
    return [
        Job(one[5], _numbers(one[1], 60), _numbers(one[2], 24), _numbers(one[3], 7), int(one[4]))
        for one in found
        if one
    ]


def _numbers(field: str, most: int) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if first in _DAYS:
            found.add(_DAYS.index(first))
            continue
        begin, end = (0, most - 1) if first == "*" else (int(first), int(last or first))
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def late(job: Job, beats: Iterable[Beat], since: float, until: float) -> tuple[int, list[int]]:
    """Return how many runs of a job were due, and those of them without a heartbeat in time."""
    there = list(beats)
    due = list(job.due(since, until))
    missed = [at for at in due if not any(at <= one.start and one.end <= at + job.spread + GRACE for one in there)]
    return len(due), missed


class Heartbeats:
    """Collects the heartbeats of tenants from the host's side, so that nothing has to run inside the tenants."""

    def __init__(self, lxd: LxdGateway, tenants: Iterable[str]) -> None:
        self._roots = {name: _root(lxd, name) for name in tenants}
        self._seen: dict[tuple[str, str], set[Beat]] = {}
        self._changed: dict[Path, int] = {}
        self._over = threading.Event()
        # Each tenant's heavy jobs have minutes of their own.
        self.jobs = {name: jobs((root / "etc/cron.d/mautic").read_text()) for name, root in self._roots.items()}

    @contextmanager
    def watching(self) -> Iterator[Heartbeats]:
        """Collect the heartbeats meanwhile."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        while True:
            self._look()
            if self._over.wait(_PAUSE):
                return self._look()

    def _look(self) -> None:
        for name, root in self._roots.items():
            # A container that was stopped has no root here; its due heartbeats count as late.
            with suppress(OSError):
                for path in (root / "var/lib/mautic-ops/cron").glob("*.json"):
                    # A heartbeat may be replaced by the next one while it is read.
                    with suppress(OSError, ValueError):
                        self._read(name, path)

    def _read(self, name: str, path: Path) -> None:
        changed = path.stat().st_mtime_ns
        if self._changed.get(path) == changed:
            return
        told = json.loads(path.read_text())
        self._changed[path] = changed
        if told["skipped"] in (False, "running"):
            job = str(told["cmd"]).partition(" ")[0]
            beat = Beat(told["start"], told["end"], told["rc"] in (0, None))
            self._seen.setdefault((name, job), set()).add(beat)

    def judged(self, since: float, until: float) -> Mapping[str, object]:
        """Return the figures of that time: how many runs were due, how many and which came late, how many failed."""
        due, missed = 0, []
        for name in self._roots:
            for job in self.jobs[name]:
                count, without = late(job, self._seen.get((name, job.command), ()), since, until)
                due += count
                missed += [f"{name} {job.command} {time.strftime('%H:%M', time.gmtime(at))}" for at in without]
        failed = [
            f"{name} {job}"
            for (name, job), beats in self._seen.items()
            for beat in beats
            if not beat.well and since <= beat.start <= until
        ]
        return {
            "jobs_due": due,
            "jobs_late": len(missed),
            "jobs_late_first": missed[:10],
            "jobs_failed": len(failed),
            "jobs_failed_first": failed[:10],
        }


def _root(lxd: LxdGateway, name: str) -> Path:
    """Return the root folder of a running container, as the host sees it."""
    state = lxd.connection.get(f"instances/{name}/state", f"read the state of `{name}`")
    return Path(f"/proc/{state['pid']}/root")
