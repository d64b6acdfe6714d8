"""`/mautic hosts`: what tenants run on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from bot.condition import conditions, counted
from bot.lxd import Lxd, LxdError, PoolSpace
from bot.messages import Message
from bot.registry import Context, query


@dataclass(frozen=True)
class Row:
    """A host as it is shown; `trouble` is why it has no room to tell of; without a version its server is silent."""

    name: str
    cluster: str = ""
    product: str = ""
    version: str = ""
    trouble: str = ""
    space: PoolSpace | None = None


@query
def hosts(context: Context) -> Message:
    """Show the hosts that tenants run on: state, room, tenants and versions."""
    seen = context.fleet.look("tenant")
    tenants = Counter(tenant.host for tenant in seen.tenants)
    rows = [
        row
        for name, lxd in context.fleet.servers.items()
        for row in ([Row(name, trouble=seen.silent[name])] if name in seen.silent else _rows(name, lxd))
    ]
    known = conditions(context, seen.tenants)
    unwell = {
        host: counted(
            found
            for one in seen.tenants
            if one.host == host and (found := known[one.instance]).word in ("offline", "degraded", "unknown")
        )
        for host in tenants
    }
    return context.renderer.message("commands/hosts.j2", hosts=rows, tenants=tenants, unwell=unwell)


def _rows(name: str, lxd: Lxd) -> list[Row]:
    try:
        server = lxd.server()
        members = lxd.members()
    except LxdError as error:
        return [Row(name, trouble=str(error))]
    if not members:
        return [_row(lxd, Row(name, "", server.product, server.version))]
    return [
        _row(lxd.at(member.name), Row(member.name, name, server.product, server.version))
        if member.online
        else Row(member.name, name, server.product, server.version, trouble=member.status)
        for member in members
    ]


def _row(lxd: Lxd, row: Row) -> Row:
    try:
        return replace(row, space=lxd.pool())
    except LxdError as error:
        return replace(row, trouble=str(error))
