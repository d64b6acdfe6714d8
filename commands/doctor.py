"""`/mautic doctor`: is the bot itself well?"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bot.checks import CHECKS
from bot.engine import quotas
from bot.engine.context import Context
from bot.engine.registry import query
from bot.fleet.health import HostLook, diagnose_host
from bot.lxd.local import server as local_lxd
from bot.lxd.protocol import LxdError, NotFound
from bot.model.findings import Where
from bot.model.plan import Refused
from bot.model.text import seconds, size, told
from bot.slack.messages import Message
from bot.store import audit
from bot.store.database import DatabaseUnavailable
from bot.store.samples import DAY

log = logging.getLogger(__name__)


@query
def doctor(context: Context) -> Message:
    """Check the bot's own parts: servers, room, blueprint, edge, audit log, operations, jobs and channel."""
    checks: tuple[tuple[str, Callable[[Context], str]], ...] = (
        ("Servers", _servers),
        ("Network", _network),
        ("Room", _room),
        ("Quotas", _quotas),
        ("Memory", _memory),
        ("Blueprint", _blueprint),
        ("Edge", _edge),
        ("Audit log", _audit),
        ("Clock", _clock),
        ("Operations", _operations),
        ("Jobs", _jobs),
    )
    found = []
    for name, check in (*checks, *CHECKS.items()):
        try:
            well, words = True, check(context)
        except (LxdError, Refused, DatabaseUnavailable) as error:
            well, words = False, str(error)
        # The words of these are ours alone, and may name people.
        found.append((name, well, told(words, "") if name in CHECKS else words))
    return context.renderer.message("commands/doctor.j2", checks=found)


def _servers(context: Context) -> str:
    settings = context.settings
    own = not settings.lxd.simulated and local_lxd.keep(settings.state, settings.lxd.endpoint, log.warning)
    told = []
    for name, lxd in context.fleet.servers.items():
        server = lxd.server()
        told.append(f"{'simulated' if server.simulated else f'{server.product} {server.version}'} on {name}")
    again = "; the bot's own had died, and was started again" if own else ""
    return f"{', '.join(told)}, tenants: {len(context.fleet.tenants())}{again}"


def _network(context: Context) -> str:
    wanted = context.settings.lxd.subnet
    for name, lxd in context.fleet.servers.items():
        found = lxd.subnet()
        if found != wanted:
            bridge = context.settings.lxd.network
            raise Refused(
                f"the bridge `{bridge}` on {name} is {found or 'without an IPv4 address'}, and `lxd.subnet` says "
                f"{wanted}; set it to what the bridge is"
            )
        if not lxd.keeps_in():
            raise Refused(
                f"the bridge on {name} is as an earlier version made it, and lets tenants reach the host and private "
                "networks; `make prepare` on the bot's machine closes it"
            )
    return f"the bridge of each server is {wanted}"


def _room(context: Context) -> str:
    told: list[str] = []
    short: list[str] = []
    for host in context.fleet.hosts():
        space = host.lxd.pool()
        free = f"{size(space.total - space.used)} of {size(space.total)} free on {host.name}"
        full = diagnose_host(HostLook(host.name, pool=space), context.settings).has("pool")
        (short if full else told).append(free)
    if short:
        raise Refused(f"only {', '.join(short)}; enlarge the pool")
    return ", ".join(told)


def _quotas(context: Context) -> str:
    edges = context.fleet.edges()
    told = quotas.ask(edges)
    if said := quotas.mend(context.settings.lxd.pool, edges, told):
        raise Refused(" ".join(said))
    counted = [host for host, one in told.items() if one]
    return f"disks are counted on {', '.join(counted)}" if counted else "no kernel tells whether it counts disks"


def _memory(context: Context) -> str:
    told: list[str] = []
    short: list[str] = []
    for host in context.fleet.hosts():
        has = context.fleet.resources(host)
        short += [one.text for one in diagnose_host(HostLook(host.name, resources=has), context.settings).findings]
        told.append(f"{size(has.available)} of {size(has.total)} available on {host.name}")
    if short:
        raise Refused(" ".join(short))
    return ", ".join(told)


def _blueprint(context: Context) -> str:
    blueprint = context.fleet.blueprint()
    return f"Mautic {blueprint.version}" + (" (a double, not the real Mautic)" if blueprint.double else "")


def _edge(context: Context) -> str:
    domain = f"doctor.{context.settings.bot.base_domain}"
    if context.edge.probe(domain).status:
        return "it answers"
    try:
        context.edge.apply(fresh=True)
    except NotFound as error:
        raise Refused("it is not there; `make prepare` on the bot's machine makes it anew") from error
    probe = context.edge.probe(domain)
    if not probe.status:
        raise Refused(probe.error or "it does not answer")
    return "it did not answer, and was brought back"


def _audit(context: Context) -> str:
    verdict = audit.verify(context.database)
    if verdict.damaged:
        raise Refused(
            f"the bot's own database is damaged ({verdict.damaged}): keep a copy of `bot.db`, and bring back its "
            "backup, as “Backup” in `docs/production.md` says"
        )
    if verdict.broken:
        raise Refused(f"{verdict.reason}: somebody changed it; `/mautic audit verify`")
    for incident in context.incidents.open():
        if incident.row.where == Where.LOG:
            raise Refused(incident.text)
    return f"{verdict.rows} rows, unbroken"


def _clock(context: Context) -> str:
    step, ago = context.lived.step()
    if ago < DAY:
        way = "ahead" if step > 0 else "back"
        raise Refused(
            f"the machine's clock was set {way} by {seconds(abs(step))} {seconds(ago)} ago, or the machine was off so "
            "long; nothing that is kept ends by that alone, but see that the clock is right"
        )
    return "it goes evenly"


def _operations(context: Context) -> str:
    stuck = context.operations.select("state = 'needs_attention'")
    if stuck:
        raise Refused(", ".join(f"operation {one.id} on {one.tenant} needs attention" for one in stuck))
    under_way = context.operations.select("state IN ('queued','running')")
    return f"{len(under_way)} under way"


def _jobs(context: Context) -> str:
    ailing = context.jobs.ailing()
    if ailing:
        told = "; ".join(f"`{job.name}` {job.trouble}" for job in ailing)
        raise Refused(f"{told}; `/mautic schedule list` says more")
    return f"all {len(context.jobs.all())} are run when they are due"
