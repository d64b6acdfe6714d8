"""Schedules: one file each in `schedules/`, called again and again; each decides from state what is due."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable
from types import ModuleType

from apscheduler.schedulers.background import BackgroundScheduler

from bot.registry import Context

log = logging.getLogger(__name__)


def schedule(*, seconds: int) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Declare a job that looks every so many seconds whether something is due."""

    def declare(function: Callable[[Context], None]) -> Callable[[Context], None]:
        function.every = seconds  # type: ignore[attr-defined]
        return function

    return declare


def start(package: ModuleType, context: Context) -> BackgroundScheduler:
    """Start every job of the package; a job that raises is logged, and called again when its time comes."""
    scheduler = BackgroundScheduler(timezone=context.settings.bot.timezone)
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for job in [value for value in vars(module).values() if hasattr(value, "every")]:
            scheduler.add_job(
                job, "interval", [context], seconds=job.every, coalesce=True, max_instances=1, name=found.name
            )
    # APScheduler tells every run at INFO.
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    scheduler.start()
    return scheduler
