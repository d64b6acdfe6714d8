"""Removes what calls left on servers whose bot was killed in the middle of them."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.lxd.protocol import LxdUnavailable


@schedule(seconds=86_400)
def sweep(context: Context) -> None:
    """Remove from every server the output of commands that nobody reads any more."""
    silent: LxdUnavailable | None = None
    for lxd in context.fleet.servers.values():
        try:
            lxd.sweep()
        except LxdUnavailable as error:
            silent = error
    if silent:
        raise silent
