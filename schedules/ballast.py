"""Reserves some space on every storage pool, to be released when the pool is full."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.fleet import ballast as space
from bot.lxd.protocol import LxdError, size_bytes


@schedule(seconds=600)
def ballast(context: Context) -> None:
    """Reserve some space on every storage pool, to be released when snapshots have to be deleted on a full pool."""
    settings, errors = context.settings, list[LxdError]()
    for host in context.fleet.hosts():
        try:
            space.keep(host, size_bytes(settings.snapshots.ballast), settings.snapshots.reserve)
        except LxdError as error:
            errors.append(error)
    if errors:
        raise errors[0]
