"""Runs one sweep of the health job over a bench, and reads what was posted."""

from __future__ import annotations

from schedules.health import health
from schedules.incidents import incidents
from tests.support.bot import Bench


def look(bench: Bench, after: float = 300) -> list[tuple[str, str]]:
    """Run one sweep after so many seconds, and post its incidents; return subject and kind of each open one."""
    bench.clock.move(after)
    health(bench.context)
    incidents(bench.context)
    return [(one.subject, one.kind) for one in bench.context.incidents.open()]


def look_for_an_hour(bench: Bench) -> None:
    """Sweep until nothing can be late any more only because the bot has just come."""
    for _ in range(12):
        look(bench)


def heads(bench: Bench) -> list[str]:
    """Return the texts that were posted outside of threads."""
    return [one["text"] for one in bench.slack.said if one["method"] == "chat.postMessage" and not one["thread_ts"]]
