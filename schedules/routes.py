"""Keeps the edge and its routes in line with LXD."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule


@schedule(seconds=60)
def routes(context: Context) -> None:
    """Keep the edge running, and fix its routes when somebody changed a container outside the bot.

    A container of an earlier release gets an address of its own; nothing is loaded when nothing has changed.
    """
    context.edge.apply(fresh=True)
