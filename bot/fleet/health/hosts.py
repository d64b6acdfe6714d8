"""What is wrong with a host: it is silent, its pool is nearly full, or it is in distress."""

from __future__ import annotations

from bot.fleet.capacity import strain as distress
from bot.fleet.health.look import HostLook, finds_of_host
from bot.model.diagnosis import Found
from bot.model.text import size
from bot.settings import Settings


@finds_of_host("server")
def server(look: HostLook, _: Settings) -> Found | None:
    """Find a server, or a member of a cluster, that gives no answer."""
    return Found(look.silent) if look.silent else None


@finds_of_host("pool")
def pool(look: HostLook, settings: Settings) -> Found | None:
    """Find a pool that is nearly full: all tenants on it stop when it is."""
    space = look.pool
    if space is None or space.used <= space.total * settings.health.pool / 100:
        return None
    free, reserve = space.total - space.used, settings.snapshots.reserve
    short = free * 100 < space.total * reserve
    held_back = f" No snapshot is taken there, and the oldest go, until {reserve}% are free." if short else ""
    tenant, host = look.move
    return Found(
        f"{space.used / space.total:.0%} of the pool of `{look.host}` is in use, {size(free)} are left; enlarge it."
        f"{held_back}",
        {"tenant": tenant, "host": host},
    )


@finds_of_host("strain")
def strain(look: HostLook, settings: Settings) -> Found | None:
    """Find a host in distress, where nothing new is begun."""
    why = distress(look.resources, settings.capacity) if look.resources else ""
    if not why:
        return None
    return Found(
        f"Host `{look.host}` is in distress: {why}. No operation that needs memory starts there until it recovers. If "
        "it lasts, stop or move a tenant."
    )
