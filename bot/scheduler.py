"""Schedules: one file each in `schedules/`, called again and again; each decides from state what is due."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import threading
import time
from collections.abc import Callable
from types import ModuleType

from bot.errors import explain
from bot.jobs import Declared
from bot.registry import Context

log = logging.getLogger(__name__)


def schedule(*, seconds: int) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Declare a job that looks every so many seconds whether something is due; its docstring says what it does."""

    def declare(function: Callable[[Context], None]) -> Callable[[Context], None]:
        function.every = seconds  # type: ignore[attr-defined]
        return function

    return declare


def discover(package: ModuleType) -> list[Declared]:
    """Find the jobs of a package: one a file, called as the file is."""
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
        jobs[name] = Declared(name, summary, declared[0].every, declared[0])
    return list(jobs.values())


class Scheduler:
    """A thread for each job: it waits, by a clock that nobody sets, and runs; so no job runs twice at once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs
        self._stopping = False
        self._asked = {name: threading.Event() for name in self.jobs.declared}
        self._threads = [
            threading.Thread(target=self._repeat, args=[job], name=f"job-{job.name}", daemon=True)
            for job in self.jobs.declared.values()
        ]

    def start(self) -> None:
        """Begin; what was due while the bot was away runs at once."""
        self.jobs.recover()
        self.jobs.wake = lambda name: self._asked[name].set()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Begin no more runs, and wait a while for those that are under way."""
        self._stopping = True
        give_up = time.monotonic() + timeout
        for asked in self._asked.values():
            asked.set()
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _repeat(self, job: Declared) -> None:
        pause = self.jobs.job(job.name).next - self.jobs.clock()
        while True:
            asked = self._asked[job.name].wait(pause)
            self._asked[job.name].clear()
            if self._stopping:
                return
            began = time.monotonic()
            try:
                self.run(job, asked=asked)
            except Exception:
                log.exception("a run of %s could not be recorded; it comes again", job.name)
            pause = max(0.0, began + job.seconds - time.monotonic())

    def run(self, job: Declared, *, asked: bool = False) -> None:
        """Run a job now and record what came of it; a paused one only when a person asked for it."""
        if not self.jobs.begin(job.name, asked=asked):
            return
        try:
            job.run(self.context)
        except Exception as error:
            why, identity = explain(error, f"running the job {job.name}")
            log.warning("the job %s failed: %s", job.name, why)
            self.jobs.end(job.name, why, identity)
        else:
            self.jobs.end(job.name, "done")
