"""Finds problems of a host: no answer, a nearly full pool, or an overload."""

from __future__ import annotations

from bot.fleet.capacity import strain as overload
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
    """Find a pool that is nearly full: all tenants on it stop once it is full."""
    space = look.pool
    if space is None or space.used <= space.total * settings.health.pool / 100:
        return None
    free, reserve = space.total - space.used, settings.snapshots.reserve
    short = free * 100 < space.total * reserve
    until = f"until {reserve}% is free"
    held_back = f" No snapshot is taken on this host, and the oldest are deleted, {until}." if short else ""
    tenant, host = look.move
    return Found(
        f"Storage pool of `{look.host}` {space.used / space.total:.0%} full, {size(free)} free. Enlarge the pool."
        f"{held_back}",
        {"tenant": tenant, "host": host},
    )


@finds_of_host("strain")
def strain(look: HostLook, settings: Settings) -> Found | None:
    """Find an overloaded host, where nothing new starts."""
    why = overload(look.resources, settings.capacity) if look.resources else ""
    if not why:
        return None
    return Found(
        f"Host `{look.host}` is overloaded: {why}. Nothing that needs memory starts there until the host recovers. If "
        "the overload lasts, stop or move a tenant."
    )
