"""Posts incidents to Slack, including what a crash or a Slack outage left unsaid."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule


@schedule(seconds=10)
def incidents(context: Context) -> None:
    """Post opened, changed and resolved incidents to Slack.

    Apart from the sweep that finds them, so that Slack's pace holds up no look.
    """
    context.incidents.announce()
