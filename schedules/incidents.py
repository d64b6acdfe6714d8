"""Brings the threads of incidents up to date, with what a crash or an outage of Slack left unsaid."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule


@schedule(seconds=10)
def incidents(context: Context) -> None:
    """Tell in Slack of incidents that were opened, changed or closed.

    Apart from the sweep that finds them, so that Slack's pace holds up no look.
    """
    context.incidents.announce()
