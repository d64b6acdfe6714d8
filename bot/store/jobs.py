"""Background jobs: when each last ran, with which result, and who paused it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from bot.model.plan import Refused, UnknownWords
from bot.store import audit
from bot.store.database import Database

LATE = 1800
"""Seconds past its due time after which a run that has not begun, or has not ended, counts as a problem: sweeps of many
tenants and Slack's pace take minutes."""
CUT = "Interrupted when the bot stopped."


@dataclass(frozen=True)
class Declared:
    """A job as its file declares it; `run` takes the context, and is called every `seconds` to do what is due.

    `at_start`: it also runs whenever the bot starts, because it reads what the settings name.
    """

    name: str
    summary: str
    seconds: int
    run: Callable[[Any], None]
    at_start: bool = False


@dataclass(frozen=True)
class Job:
    """The state of a job; times in epoch seconds.

    `outcome`: the result of the last run that ended, "done" or a sentence; `late`: the next run should have begun long
    ago.
    """

    name: str
    summary: str
    seconds: int
    next: float
    paused: float | None = None
    paused_by: str = ""
    started: float | None = None
    finished: float | None = None
    outcome: str = ""
    error_id: str = ""
    late: bool = False

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self.started is not None and self.finished is None

    @property
    def problem(self) -> str:
        """What is wrong with the job, in a few words, or "". An interrupted run is no problem: another follows soon."""
        if self.paused:
            return "is paused"
        if self.late:
            return "hangs" if self.running else "is not running"
        return "" if self.outcome in ("", "done", CUT) else f"failed: {self.outcome.rstrip('.')}"


class Jobs:
    """The table of jobs. `wake` is called with the name of a job that is to run now.

    Args:
        clock: returns epoch seconds.
        elapsed: returns seconds by a clock that nobody can set, and that stops while the machine is suspended: a job
            that could not run is not late.
    """

    def __init__(
        self,
        database: Database,
        declared: Sequence[Declared],
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.declared = {job.name: job for job in declared}
        self.clock = clock
        self.elapsed = elapsed
        self.wake: Callable[[str], None] = lambda name: None
        self._awake: float | None = None
        """When this process began to run jobs, by `elapsed`; jobs that were due before count as late from then on."""
        self._begun: dict[str, float] = {}
        """When this process last began each job, by `elapsed`."""

    def all(self) -> list[Job]:
        """Return every declared job, in the order of their declaration."""
        rows = {row["name"]: dict(row) for row in self.database.read("SELECT * FROM jobs")}
        return [self._whole(job, rows.get(job.name, {})) for job in self.declared.values()]

    def failing_jobs(self) -> list[Job]:
        """Return the jobs that have a problem."""
        return [job for job in self.all() if job.problem]

    def job(self, name: str) -> Job:
        """Return one job, or raise UnknownWords, which suggests the job with the most similar name."""
        for job in self.all():
            if job.name == name:
                return job
        near = get_close_matches(name, self.declared, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else "See all: `/mautic schedule list`"
        raise UnknownWords(f"There is no job “{name[:40]}”. {hint}")

    def _whole(self, job: Declared, row: dict[str, Any]) -> Job:
        now = self.clock()
        # After the clock is set back, no run waits longer than the interval of its job.
        due = min(max((row.get("started") or 0) + job.seconds, now), now + job.seconds)
        began = self._begun.get(job.name, self._awake)
        late = began is not None and self.elapsed() > began + job.seconds + LATE
        return Job(
            **{"name": job.name, "summary": job.summary, "seconds": job.seconds, "next": due, "late": late, **row}
        )

    def pause(self, name: str, actor: str) -> None:
        """Keep a job from running by itself until it is resumed; raise Refused if it is already paused."""
        job = self.job(name)
        if job.paused:
            raise Refused(f"`{name}` was already paused by <@{job.paused_by}>.")
        self._record(name, "job.paused", actor, paused=self.clock(), paused_by=actor)

    def resume(self, name: str, actor: str) -> None:
        """Let a paused job run again, at once and then on schedule; raise Refused if it is not paused."""
        if not self.job(name).paused:
            raise Refused(f"`{name}` is not paused. To run the job now: `/mautic schedule run {name}`")
        self._record(name, "job.resumed", actor, paused=None, paused_by="")
        self.wake(name)

    def ask(self, name: str, actor: str) -> None:
        """Run a job now, even a paused one; raise Refused if it is already running."""
        if self.job(name).running:
            raise Refused(f"`{name}` is already running. See the result: `/mautic schedule list`")
        self._record(name, "job.asked", actor)
        self.wake(name)

    def _record(self, name: str, event: str, actor: str, **columns: object) -> None:
        with self.database.transaction() as transaction:
            transaction.execute("INSERT INTO jobs (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            for column, value in columns.items():
                transaction.execute(f"UPDATE jobs SET {column} = ? WHERE name = ?", (value, name))  # noqa: S608
            audit.record(transaction, audit.Event(event, actor, detail={"job": name}), self.clock())

    def begin(self, name: str, *, asked: bool = False) -> bool:
        """Record that a run begins; return False if the job is paused and nobody asked for the run."""
        with self.database.transaction() as transaction:
            done = transaction.execute(
                "INSERT INTO jobs (name, started) VALUES (:name, :now) ON CONFLICT (name) DO UPDATE"
                " SET started = :now, finished = NULL WHERE paused IS NULL OR :asked",
                {"name": name, "now": self.clock(), "asked": asked},
            )
        if done.rowcount:
            self._begun[name] = self.elapsed()
        return done.rowcount == 1

    def end(self, name: str, outcome: str, error_id: str = "") -> None:
        """Record how a run ended."""
        with self.database.transaction() as transaction:
            transaction.execute(
                "UPDATE jobs SET finished = ?, outcome = ?, error_id = ? WHERE name = ?",
                (self.clock(), outcome, error_id, name),
            )

    def recover(self) -> None:
        """After a start: record the runs that the last process did not end as interrupted."""
        self._awake, self._begun = self.elapsed(), {}
        for job in self.all():
            if job.running:
                self.end(job.name, CUT)
