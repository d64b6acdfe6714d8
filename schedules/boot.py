"""Sets the order in which LXD starts the tenants after a reboot."""

from __future__ import annotations

from bot import samples
from bot.errands import Errands
from bot.labels import Role
from bot.lxd import LxdError, LxdUnavailable, PoolFull
from bot.registry import Context
from bot.samples import DAY
from bot.scheduler import schedule
from bot.starts import boot as order

SENT = 3600
"""Seconds for which a tenant counts as one that sends after mail was seen to wait for its worker."""


@schedule(seconds=300)
def boot(context: Context) -> None:
    """Set the order in which LXD starts tenants after a reboot: those sending mail, then busy ones, then the rest.

    Tenants start one after the other, with pauses of `capacity.start_delay`, even when the bot is not running.
    """
    now = context.now()
    seen = context.fleet.look(Role.TENANT)
    sends = samples.queued_since(context.database, now - SENT, now)
    busy = samples.busy_since(context.database, now - DAY, now)
    # What has a tenant in hand changes its configuration itself.
    held = {one.tenant for one in context.operations.select("state IN ('queued', 'running')")}
    errands = Errands(context)
    silent: LxdError | None = next((LxdUnavailable(why) for why in seen.silent.values()), None)
    for one in seen.tenants:
        wanted = order(
            context.settings.capacity, "sends" if one.name in sends else "active" if one.name in busy else "idle"
        )
        if one.boot == tuple(wanted.values()) or one.name in held or one.status not in ("Running", "Stopped"):
            continue
        if not errands.is_free("boot", one.name):
            continue
        try:
            context.fleet.of(one).lxd.update(one.instance, wanted)
        except PoolFull:
            # Of a tenant whose disk is full LXD keeps no facts; its incident says that it is.
            continue
        except LxdError as error:
            silent = error
    if silent:
        raise silent
