"""Keeps the bot's own LXD or Incus alive where no service manager does."""

from __future__ import annotations

import logging

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.lxd.local import server as local_lxd

log = logging.getLogger(__name__)


@schedule(seconds=10)
def lxd(context: Context) -> None:
    """Start the server that `make up` started again when it has died; any other is its service manager's.

    Tenants go on without it, but nothing can be done to them. It outlives the bot.
    """
    settings = context.settings
    if not settings.lxd.simulated and local_lxd.keep(settings.state, settings.lxd.endpoint, log.warning):
        log.warning("the server had died; it runs again")
