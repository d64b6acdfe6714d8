"""Keeps the edge's routes what LXD says."""

from __future__ import annotations

from bot.registry import Context
from bot.scheduler import schedule


@schedule(seconds=60)
def routes(context: Context) -> None:
    """Keep the edge's routes right when a container was restarted behind our back and has another address.

    Every address is asked for anew; nothing is loaded when nothing has changed.
    """
    context.edge.apply(fresh=True)
