"""Keeps the bot's own LXD or Incus running where no service manager does."""

from __future__ import annotations

import logging

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.lxd.local import server as local_lxd

log = logging.getLogger(__name__)


@schedule(seconds=10)
def lxd(context: Context) -> None:
    """Restart the server that `make up` started if it crashed; any other belongs to its service manager.

    Tenants go on without it, but nothing can be done to them. It outlives the bot.
    """
    settings = context.settings
    if not settings.lxd.simulated and local_lxd.keep(settings.state, settings.lxd.endpoint, log.warning):
        log.warning("the server had crashed and was restarted")
