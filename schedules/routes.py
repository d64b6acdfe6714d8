"""Keeps the edge's routes what LXD says: a container that was restarted behind our back may have another address."""

from __future__ import annotations

from bot.registry import Context
from bot.scheduler import schedule


@schedule(seconds=60)
def routes(context: Context) -> None:
    """Ask for every address anew, and route by them; nothing is loaded when nothing has changed."""
    context.edge.apply(fresh=True)
