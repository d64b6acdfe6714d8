"""One sweep of the health job over a bench, and what it said."""

from __future__ import annotations

from schedules.health import health
from schedules.incidents import incidents
from tests.support.bot import Bench


def look(bench: Bench) -> list[tuple[str, str]]:
    """One sweep, told; what is wrong then."""
    bench.clock.move(300)
    health(bench.context)
    incidents(bench.context)
    return [(one.subject, one.kind) for one in bench.context.incidents.open()]


def heads(bench: Bench) -> list[str]:
    """What was posted and is in no thread."""
    return [one["text"] for one in bench.slack.said if one["method"] == "chat.postMessage" and not one["thread_ts"]]
