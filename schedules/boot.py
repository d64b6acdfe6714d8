"""Sets the order in which LXD starts the tenants after a reboot."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.maintenance import Maintenance
from bot.engine.scheduler import schedule
from bot.fleet.starts import boot as order
from bot.lxd.protocol import LxdError, LxdUnavailable, PoolFull
from bot.model.labels import Role
from bot.store import metrics
from bot.store.metrics import DAY

SENT = 3600
"""Seconds for which a tenant counts as sending after mail was seen in its queue."""


@schedule(seconds=300)
def boot(context: Context) -> None:
    """Set the order in which LXD starts tenants after a reboot: those sending mail, then busy ones, then the rest.

    Tenants start one after the other, with pauses of `capacity.start_delay`, even when the bot is not running.
    """
    now = context.now()
    seen = context.fleet.inventory(Role.TENANT)
    sends = metrics.queued_since(context.database, now - SENT, now)
    busy = metrics.busy_since(context.database, now - DAY, now)
    # A running operation changes the configuration of its tenant itself.
    held = {one.tenant for one in context.operations.select("state IN ('queued', 'running')")}
    maintenance = Maintenance(context)
    silent: LxdError | None = next((LxdUnavailable(why) for why in seen.silent.values()), None)
    for one in seen.tenants:
        wanted = order(
            context.settings.capacity, "sends" if one.name in sends else "active" if one.name in busy else "idle"
        )
        if one.boot == tuple(wanted.values()) or one.name in held or one.status not in ("Running", "Stopped"):
            continue
        if not maintenance.is_free("boot", one.name):
            continue
        try:
            context.fleet.of(one).lxd.update(one.instance, wanted)
        except PoolFull:
            # LXD stores nothing for a tenant whose disk is full; an incident reports that.
            continue
        except LxdError as error:
            silent = error
    if silent:
        raise silent
