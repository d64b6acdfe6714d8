"""Runs the jobs, one file each in `schedules/`, at fixed intervals; each job decides from state what is due."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from bot.engine.context import Context
from bot.engine.errors import explain
from bot.store.jobs import Declared

log = logging.getLogger(__name__)
# APScheduler logs every run, and every run that it skips because the last one has not ended.
logging.getLogger("apscheduler").setLevel(logging.ERROR)
WATCH = 10.0
"""Seconds between two checks of whether somebody has set the clock."""


def schedule(
    *, seconds: int, at_start: bool = False
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Declare a job that checks every `seconds` whether something is due; its docstring says what it does.

    `at_start`: the job also runs whenever the bot starts, because it depends on the settings.
    """

    def declare(function: Callable[[Context], None]) -> Callable[[Context], None]:
        function.every, function.at_start = seconds, at_start  # type: ignore[attr-defined]
        return function

    return declare


def discover(package: ModuleType) -> list[Declared]:
    """Return the jobs of a package: one per file, with the file's name."""
    jobs: dict[str, Declared] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        declared = [
            value
            for value in vars(loaded).values()
            if getattr(value, "every", None) and value.__module__ == loaded.__name__
        ]
        if len(declared) != 1:
            raise RuntimeError(f"{loaded.__name__} has to declare one job; it declares {len(declared)}.")
        name = module.name.rstrip("_").replace("_", "-")
        if name in jobs:
            raise RuntimeError(f"Two files of {package.__name__} declare the job {name}.")
        summary = inspect.cleandoc(declared[0].__doc__ or "").split("\n")[0].rstrip(".")
        jobs[name] = Declared(name, summary, declared[0].every, declared[0], declared[0].at_start)
    return list(jobs.values())


class Every(BaseTrigger):  # type: ignore[misc]
    """A trigger some seconds after the last run began; a clock set years ahead makes one run due, not a million."""

    def __init__(self, seconds: float) -> None:
        self.interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return when the next run is due."""
        return now + self.interval


class Threads(BaseExecutor):  # type: ignore[misc]
    """Runs each job in a thread of its own: a run that hangs delays no other job.

    Nor does it delay the end of the process, as it would in a pool.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[str, threading.Thread] = {}

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        thread = threading.Thread(target=self._run, args=[job, run_times], name=f"job-{job.id}", daemon=True)
        self.threads[job.id] = thread
        thread.start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        self._run_job_success(job.id, run_job(job, job._jobstore_alias, run_times, self._logger.name))


class Scheduler:
    """Runs the jobs with APScheduler, records each run, and runs none twice at once.

    A thread watches for changes of the wall clock, by which APScheduler goes.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs
        self._asked: set[str] = set()
        self._over = threading.Event()
        self._threads = Threads()
        self._scheduler = BackgroundScheduler(timezone="UTC", executors={"default": self._threads})
        self._scheduler.add_listener(self._ran, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)

    def start(self) -> None:
        """Start the scheduler; jobs that became due while the bot was down run at once."""
        self.jobs.recover()
        ahead = _ahead()
        for job in self.jobs.all():
            declared = self.jobs.declared[job.name]
            wait = 0.0 if declared.at_start else job.next - self.jobs.clock()
            self._scheduler.add_job(
                self._due,
                Every(job.seconds),
                [declared],
                id=job.name,
                next_run_time=datetime.now(UTC) + timedelta(seconds=wait),
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
            )
        self.jobs.wake = self._ask
        self._scheduler.start()
        threading.Thread(target=self._watch, args=[ahead], name="clock-watch", daemon=True).start()

    def stop(self, timeout: float = 10.0) -> None:
        """Begin no more runs, and wait at most `timeout` seconds for those under way."""
        self._over.set()
        self._scheduler.shutdown(wait=False)
        give_up = time.monotonic() + timeout
        for thread in self._threads.threads.values():
            thread.join(max(0.0, give_up - time.monotonic()))

    def _ask(self, name: str) -> None:
        self._asked.add(name)
        self._now(name)

    def _now(self, name: str) -> None:
        with suppress(JobLookupError):  # The bot is stopping.
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def _ran(self, event: JobExecutionEvent) -> None:
        """Run a job again if somebody asked for it while a run was under way."""
        if event.job_id in self._asked:
            self._now(event.job_id)

    def _watch(self, ahead: float) -> None:
        """Have every job run now, and count from there, when the wall clock was set or the machine was suspended."""
        while not self._over.wait(WATCH):
            before, ahead = ahead, _ahead()
            if abs(ahead - before) > 1:
                log.warning("the clock was set by %+.0f seconds; every job runs now", ahead - before)
                for name in self.jobs.declared:
                    self._now(name)

    def _due(self, job: Declared) -> None:
        asked = job.name in self._asked
        self._asked.discard(job.name)
        self.run(job, asked=asked)

    def run(self, job: Declared, *, asked: bool = False) -> None:
        """Run a job now and record the outcome; a paused job runs only if a person asked for it."""
        if not self.jobs.begin(job.name, asked=asked):
            return
        try:
            job.run(self.context)
        except Exception as error:
            why, identity = explain(error, f"running the job {job.name}")
            if identity or self.jobs.job(job.name).outcome != why:
                log.warning("the job %s failed: %s", job.name, why)
            self.jobs.end(job.name, why, identity)
        else:
            self.jobs.end(job.name, "done")


def _ahead() -> float:
    """Return by how many seconds the wall clock is ahead of the monotonic clock, which nobody can set."""
    return datetime.now(UTC).timestamp() - time.monotonic()
