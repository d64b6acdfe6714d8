"""`/mautic schedule`: what the bot does by itself."""

from __future__ import annotations

from typing import Literal

from bot.engine.context import Context
from bot.engine.registry import decides, query
from bot.model.plan import Refused
from bot.slack.messages import Message


@decides
@query
def schedule(context: Context, what: Literal["list", "run", "pause", "resume"] = "list", job: str = "") -> Message:
    """Show what the bot does by itself and when; let one of these jobs run now, pause it, or resume it.

    A job that runs decides for itself what is due. A paused one does nothing until it is resumed, or run by hand.
    """
    if what == "list":
        return context.renderer.message("commands/schedule.j2", jobs=context.jobs.all())
    context.approvals.refuse_to_ask("schedule", context.actor)
    if not job:
        names = ", ".join(f"`{one.name}`" for one in context.jobs.all())
        raise Refused(f"Which job? There is {names}: `/mautic schedule {what} <job>`.")
    if what == "run":
        context.jobs.ask(job, context.actor.id)
        return context.renderer.say(f":arrow_forward: `{job}` runs now; `/mautic schedule list` shows what came of it.")
    if what == "pause":
        context.jobs.pause(job, context.actor.id)
        return context.renderer.say(f":double_vertical_bar: `{job}` is paused until `/mautic schedule resume {job}`.")
    context.jobs.resume(job, context.actor.id)
    return context.renderer.say(f":arrow_forward: `{job}` is no longer paused, and runs now.")
