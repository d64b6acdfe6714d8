"""`/mautic hosts`: what tenants run on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bot.lxd import Lxd, LxdError, PoolSpace
from bot.messages import Message
from bot.registry import Context, query


@dataclass(frozen=True)
class Row:
    """A host as it is shown; `trouble` is why it has no room to tell of."""

    name: str
    cluster: str = ""
    version: str = ""
    trouble: str = ""
    space: PoolSpace | None = None


@query
def hosts(context: Context) -> Message:
    """Show the hosts that tenants run on: state, room, tenants and versions."""
    tenants = Counter(tenant.host for tenant in context.fleet.look("tenant").tenants)
    rows = [row for name, lxd in context.fleet.servers.items() for row in _rows(name, lxd)]
    return context.renderer.message("commands/hosts.j2", hosts=rows, tenants=tenants)


def _rows(name: str, lxd: Lxd) -> list[Row]:
    try:
        version = lxd.server().version
        members = lxd.members()
        if not members:
            return [Row(name, "", version, space=lxd.pool())]
        return [
            Row(member.name, name, version, space=lxd.at(member.name).pool())
            if member.online
            else Row(member.name, name, version, trouble=member.status)
            for member in members
        ]
    except LxdError as error:
        return [Row(name, trouble=str(error))]
