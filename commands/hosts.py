"""`/mautic hosts`: lists the hosts that tenants run on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bot.engine.context import Context
from bot.engine.placement import carries
from bot.engine.registry import query
from bot.fleet.capacity import strain
from bot.guest.blueprint.furniture import is_behind
from bot.lxd.protocol import Lxd, LxdError, PoolSpace, Resources
from bot.model.labels import Role
from bot.model.slots import most_at_once
from bot.model.tenants import Tenant
from bot.reports.condition import conditions, counted
from bot.slack.messages import Message


@dataclass(frozen=True)
class Row:
    """A host as it is shown. `problem`: why its free space is unknown; without a version its server does not answer."""

    name: str
    cluster: str = ""
    product: str = ""
    version: str = ""
    problem: str = ""
    space: PoolSpace | None = None
    resources: Resources | None = None


@dataclass(frozen=True)
class Slots:
    """How the heavy jobs of a host's tenants are spread.

    Attributes:
        spread: tenants that have a slot.
        at_once: the most of these whose jobs begin within ten seconds of one another.
        without: tenants without a slot, whose jobs all begin at the same time.
    """

    spread: int
    at_once: int
    without: int

    @classmethod
    def of(cls, tenants: Iterable[Tenant]) -> Slots:
        """Return how the jobs of some tenants are spread."""
        found = [one.slot for one in tenants]
        given = [one for one in found if one is not None]
        return cls(len(given), most_at_once(given, 10), len(found) - len(given))


@query
def hosts(context: Context) -> Message:
    """List hosts: state, free disk and memory, how many more tenants fit, and versions."""
    seen = context.fleet.inventory(Role.TENANT, Role.INCOMING)
    serving = [tenant for tenant in seen.tenants if tenant.role == Role.TENANT]
    tenants = Counter(tenant.host for tenant in serving)
    rows = [
        row
        for name, lxd in context.fleet.servers.items()
        for row in ([Row(name, problem=seen.silent[name])] if name in seen.silent else _rows(name, lxd))
    ]
    known = conditions(context, serving)
    unwell = {
        host: counted(
            found
            for one in serving
            if one.host == host and (found := known[one.instance]).word in ("offline", "degraded", "unknown")
        )
        for host in tenants
    }
    memory = {row.name: row.resources for row in rows if row.resources}
    free = {row.name: row.space.total - row.space.used for row in rows if row.space}
    return context.renderer.message(
        "commands/hosts.j2",
        hosts=rows,
        tenants=tenants,
        unwell=unwell,
        carries=carries(context, seen.tenants, memory, free),
        strained={host: strain(one, context.settings.capacity) for host, one in memory.items()},
        slots={host: Slots.of(one for one in serving if one.host == host) for host in tenants},
        old=Counter(one.host for one in serving if is_behind(one)),
    )


def _rows(name: str, lxd: Lxd) -> list[Row]:
    try:
        server = lxd.server()
        members = lxd.members()
    except LxdError as error:
        return [Row(name, problem=str(error))]
    if not members:
        return [_row(lxd, Row(name, "", server.product, server.version))]
    return [
        _row(lxd.at(member.name), Row(member.name, name, server.product, server.version))
        if member.online
        else Row(member.name, name, server.product, server.version, problem=member.status)
        for member in members
    ]


def _row(lxd: Lxd, row: Row) -> Row:
    try:
        return replace(row, space=lxd.pool(), resources=lxd.resources())
    except LxdError as error:
        return replace(row, problem=str(error))
