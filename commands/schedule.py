"""`/mautic schedule`: lists, runs, pauses and resumes background jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Literal

from bot.engine.context import Context
from bot.engine.registry import decides, query
from bot.model.plan import Refused
from bot.slack.messages import Message

SHOWN = ("digest", "health", "snapshots", "purge")
"""The jobs that people follow; the others are named in one line, unless one has a problem."""


@dataclass(frozen=True)
class DigestTimes:
    """When the digest is sent: `hour` in words, the last one (None: none yet) and the next one in epoch seconds."""

    hour: str
    sent: float | None
    next: float


@decides
@query
def schedule(context: Context, what: Literal["list", "run", "pause", "resume"] = "list", job: str = "") -> Message:
    """List background jobs; run one now, pause or resume one.

    A job that runs decides for itself what is due. A paused job does nothing until somebody resumes or runs the job.
    """
    if what == "list":
        jobs = context.jobs.all()
        shown = [one for one in jobs if one.name in SHOWN or one.problem]
        return context.renderer.message(
            "commands/schedule.j2",
            jobs=shown,
            internal=[one.name for one in jobs if one not in shown],
            digest=_digest(context),
        )
    context.approvals.refuse_to_ask("schedule", context.actor)
    if not job:
        names = ", ".join(f"`{one.name}`" for one in context.jobs.all())
        raise Refused(f"Which job? Type `/mautic schedule {what} <job>` with one of {names}.")
    if what == "run":
        context.jobs.ask(job, context.actor.id)
        return context.renderer.say(f":arrow_forward: Running `{job}` now. See the result: `/mautic schedule list`")
    if what == "pause":
        context.jobs.pause(job, context.actor.id)
        return context.renderer.say(f":double_vertical_bar: `{job}` paused. Resume: `/mautic schedule resume {job}`")
    context.jobs.resume(job, context.actor.id)
    return context.renderer.say(f":arrow_forward: `{job}` resumed, and running now.")


def _digest(context: Context) -> DigestTimes:
    zone, hour = context.renderer.zone, context.settings.digest.hour
    local = datetime.fromtimestamp(context.now(), zone)
    today = datetime.combine(local, time(hour), zone)
    known = context.database.read("SELECT day, at FROM digests WHERE ts <> '' ORDER BY rowid DESC LIMIT 1")
    # While today's digest was not sent, even if it is overdue, it is the next one.
    sent_today = bool(known) and known[0]["day"].startswith(local.date().isoformat())
    following = today if not sent_today else datetime.combine(local + timedelta(days=1), time(hour), zone)
    return DigestTimes(f"{hour:02}:00 {zone.key}", known[0]["at"] if known else None, following.timestamp())
