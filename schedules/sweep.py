"""Deletes what interrupted calls left on the servers."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.lxd.protocol import LxdUnavailable


@schedule(seconds=86_400)
def sweep(context: Context) -> None:
    """Delete old command output from every server."""
    silent: LxdUnavailable | None = None
    for lxd in context.fleet.servers.values():
        try:
            lxd.sweep()
        except LxdUnavailable as error:
            silent = error
    if silent:
        raise silent
