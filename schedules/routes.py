"""Keeps the edge's routes what LXD says."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule


@schedule(seconds=60)
def routes(context: Context) -> None:
    """Keep the edge running, and its routes right when a container was changed behind our back.

    One from before the bot gave addresses is given its own; nothing is loaded when nothing has changed.
    """
    context.edge.apply(fresh=True)
