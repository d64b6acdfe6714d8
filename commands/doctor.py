"""`/mautic doctor`: checks the bot itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bot.checks import CHECKS
from bot.engine import quotas
from bot.engine.comparison import PENDING
from bot.engine.context import Context
from bot.engine.registry import query
from bot.fleet.advisories import advisories, exposed
from bot.fleet.health import HostLook, diagnose_host
from bot.lxd.local import server as local_lxd
from bot.lxd.protocol import LxdError, NotFound
from bot.model.findings import Where
from bot.model.plan import Refused
from bot.model.text import seconds, size, told
from bot.slack.messages import Message
from bot.store import audit
from bot.store.database import DatabaseUnavailable
from bot.store.metrics import DAY

log = logging.getLogger(__name__)


@query
def doctor(context: Context) -> Message:
    """Check the bot itself: servers, free space, blueprint, security, edge, audit log, operations, jobs, settings."""
    checks: tuple[tuple[str, Callable[[Context], str]], ...] = (
        ("Servers", _servers),
        ("Network", _network),
        ("Free space", _free),
        ("Quotas", _quotas),
        ("Memory", _memory),
        ("Blueprint", _blueprint),
        ("Security", _security),
        ("Edge", _edge),
        ("Audit log", _audit),
        ("Clock", _clock),
        ("Operations", _operations),
        ("Background jobs", _jobs),
    )
    found = []
    for name, check in (*checks, *CHECKS.items()):
        try:
            well, words = True, check(context)
        except (LxdError, Refused, DatabaseUnavailable) as error:
            well, words = False, str(error)
        # The texts of these checks are the bot's own, and may mention people.
        found.append((name, well, told(words, "") if name in CHECKS else words))
    return context.renderer.message("commands/doctor.j2", checks=found)


def _servers(context: Context) -> str:
    settings = context.settings
    own = not settings.lxd.simulated and local_lxd.keep(settings.state, settings.lxd.endpoint, log.warning)
    told = []
    for name, lxd in context.fleet.servers.items():
        server = lxd.server()
        told.append(f"{'simulated' if server.simulated else f'{server.product} {server.version}'} on {name}")
    again = "; the local server had crashed and was restarted" if own else ""
    count = len(context.fleet.tenants())
    return f"{', '.join(told)}, {count} tenant{'s' if count != 1 else ''}{again}"


def _network(context: Context) -> str:
    wanted = context.settings.lxd.subnet
    for name, lxd in context.fleet.servers.items():
        found = lxd.subnet()
        if found != wanted:
            bridge = context.settings.lxd.network
            raise Refused(
                f"the bridge `{bridge}` on {name} has {found or 'no IPv4 address'}, but `lxd.subnet` is {wanted}. Set "
                "`lxd.subnet` to the address of the bridge"
            )
        if not lxd.isolates_tenants():
            raise Refused(
                f"the bridge on {name} was made by an earlier version, and lets tenants reach the host and private "
                "networks. Run `make prepare` on the bot's machine to close that"
            )
    return f"the bridge of each server is {wanted}"


def _free(context: Context) -> str:
    told: list[str] = []
    short: list[str] = []
    for host in context.fleet.hosts():
        space = host.lxd.pool()
        free = f"{size(space.total - space.used)} of {size(space.total)} free on {host.name}"
        full = diagnose_host(HostLook(host.name, pool=space), context.settings).has("pool")
        (short if full else told).append(free)
    if short:
        raise Refused(f"only {', '.join(short)}. Enlarge the pool")
    return ", ".join(told)


def _quotas(context: Context) -> str:
    edges = context.fleet.edges()
    told = quotas.ask(edges)
    if said := quotas.mend(context.settings.lxd.pool, edges, told):
        raise Refused(" ".join(said))
    counted = [host for host, one in told.items() if one]
    return (
        f"disk limits enforced on {', '.join(counted)}"
        if counted
        else "unknown: no kernel says whether disk limits are enforced"
    )


def _memory(context: Context) -> str:
    told: list[str] = []
    short: list[str] = []
    for host in context.fleet.hosts():
        has = context.fleet.resources(host)
        short += [one.text for one in diagnose_host(HostLook(host.name, resources=has), context.settings).findings]
        told.append(f"{size(has.available)} of {size(has.total)} free on {host.name}")
    if short:
        raise Refused(" ".join(short))
    return ", ".join(told)


def _blueprint(context: Context) -> str:
    blueprint = context.fleet.blueprint()
    return f"Mautic {blueprint.version}" + (" (a demo stand-in, not the real Mautic)" if blueprint.double else "")


def _security(context: Context) -> str:
    if words := exposed(advisories(context.settings), context.fleet.tenants()):
        raise Refused(words)
    return "no tenant runs a Mautic version with a known security hole"


def _edge(context: Context) -> str:
    domain = f"doctor.{context.settings.bot.base_domain}"
    if context.edge.probe(domain).status:
        return "reachable"
    try:
        context.edge.apply(fresh=True)
    except NotFound as error:
        raise Refused("the edge is missing. Run `make prepare` on the bot's machine to create one") from error
    probe = context.edge.probe(domain)
    if not probe.status:
        raise Refused(probe.error or "not reachable")
    return "was not reachable, and was restarted"


def _audit(context: Context) -> str:
    verdict = audit.verify(context.database)
    if verdict.damaged:
        raise Refused(
            f"the bot's database is damaged ({verdict.damaged}). Copy `bot.db`, then restore the backup: see “Backup” "
            "in `docs/production.md`"
        )
    if verdict.broken:
        raise Refused(f"{verdict.reason}: the log was altered. Details: `/mautic audit verify`")
    for incident in context.incidents.open():
        if incident.row.where == Where.LOG:
            raise Refused(incident.text)
    if not context.operations.compared:
        raise Refused(PENDING)
    return f"intact, {verdict.rows} entries"


def _clock(context: Context) -> str:
    step, ago = context.uptime.step()
    if ago < DAY:
        way = "forward" if step > 0 else "back"
        raise Refused(
            f"the machine's clock was set {way} by {seconds(abs(step))} {seconds(ago)} ago, or the machine was off for "
            "that long. Nothing expires because of that alone, but check the clock"
        )
    return "steady"


def _operations(context: Context) -> str:
    stuck = context.operations.select("state = 'needs_attention'")
    if stuck:
        raise Refused(", ".join(f"{one.named} ({one.command} {one.tenant}) needs action" for one in stuck))
    under_way = context.operations.select("state IN ('queued','running')")
    return f"{len(under_way)} in progress"


def _jobs(context: Context) -> str:
    failing_jobs = context.jobs.failing_jobs()
    if failing_jobs:
        told = "; ".join(f"`{job.name}` {job.problem}" for job in failing_jobs)
        raise Refused(f"{told}. Details: `/mautic schedule list`")
    count = len(context.jobs.all())
    return f"{count} of {count} background jobs on time"
