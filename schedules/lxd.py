"""Keeps the bot's own LXD or Incus running where no service manager does."""

from __future__ import annotations

import logging

from bot import local_lxd
from bot.registry import Context
from bot.scheduler import schedule

log = logging.getLogger(__name__)


@schedule(seconds=10)
def lxd(context: Context) -> None:
    """Restart the server that `make up` started if it crashed; any other belongs to its service manager.

    Tenants go on without it, but nothing can be done to them. It outlives the bot.
    """
    settings = context.settings
    if not settings.lxd.simulated and local_lxd.keep(settings.state, settings.lxd.endpoint, log.warning):
        log.warning("the server had crashed and was restarted")
