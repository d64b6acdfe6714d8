"""Where a new tenant goes: to the host with the most room."""

from __future__ import annotations

from bot.fleet import Fleet, Host
from bot.lxd import LxdError, PoolSpace
from bot.messages import size
from bot.plan import Refused

LEAST = 1_000_000_000
"""Bytes that have to be free on a host's pool for it to take one more tenant."""


def room(host: Host) -> str:
    """Return what is free on a host's pool, in words; raises Refused when it is too little for one more tenant."""
    space = host.lxd.pool()
    free = space.total - space.used
    if free < LEAST:
        raise Refused(f"The storage pool of `{host.name}` is full; enlarge it, or choose another host.")
    return f"{size(free)} of {size(space.total)} free"


def placement(fleet: Fleet) -> tuple[Host, str]:
    """Return the host whose pool has the most room, and why it is that one; raises Refused when none has any."""
    rooms: list[tuple[int, PoolSpace, Host]] = []
    for host in fleet.hosts():
        try:
            space = host.lxd.pool()
        except LxdError:
            # It answered a moment ago: no place for something new.
            continue
        rooms.append((space.total - space.used, space, host))
    if not rooms:
        raise Refused("No host answers just now, so nothing can be placed; `/mautic doctor` says why.")
    free, space, host = max(rooms, key=lambda one: one[0])
    if free < LEAST:
        raise Refused(f"The storage pool of `{host.name}` is full, and no other host has more room; enlarge a pool.")
    most = "" if len(rooms) == 1 else f", the most of {len(rooms)} hosts"
    return host, f"{size(free)} of {size(space.total)} free{most}"
