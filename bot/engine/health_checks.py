"""Checks tenants and hosts in parallel, each with a time limit. What the results mean is decided elsewhere.

`bot/fleet/health/` finds what is wrong in a look, `schedules/health.py` decides what people are told.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from bot.engine import attention
from bot.engine.context import Context
from bot.engine.errors import explain
from bot.engine.placement import LEAST
from bot.engine.snapshots import ours
from bot.fleet.health import Before, HostLook, Look, Page, diagnose_host, larger_plans, last_known
from bot.fleet.inventory import TenantEntry
from bot.guest.mautic import disk_of
from bot.lxd.protocol import Lxd, LxdError, size_bytes
from bot.lxd.wire import is_tenants
from bot.model.labels import State
from bot.model.tenants import Tenant
from bot.store import metrics
from bot.store.metrics import AWAY, DAY, Held, HostReading, KnownDisk, Reading

WIDTH = 16
"""Tenants that are checked in parallel."""
PATIENCE = 20.0
"""Seconds for the look at one tenant, its page and its own report: twice this fits into a minute."""
PAGE = 12.0
"""Seconds of `PATIENCE` that the page may take."""
BUDGET = 240.0
"""Seconds for all looks of a sweep; the next sweep begins with tenants that were not reached."""
TIERS = {"hourly": 3600, "daily": DAY, "weekly": 7 * DAY, "monthly": 31 * DAY}
"""Seconds between the snapshots of a tier, finest first."""


def at_tenants(context: Context, chosen: Iterable[TenantEntry], *, fresh: bool) -> dict[str, Look]:
    """Look at tenants in parallel, the one not seen for longest first; `fresh`: read their state again.

    Returns looks by tenant; those whose turn does not come within BUDGET seconds have none.
    """
    threads = ThreadPoolExecutor(WIDTH)
    now = context.now()
    due, awake = _snapshot_due(context), metrics.awake_since(context.database, now)
    looked, disks = metrics.looked_at(context.database, now), metrics.disks(context.database)
    held = metrics.snapshots(context.database)
    watched = _watched(context, now)

    def look(one: TenantEntry) -> Look:
        at, name = context.now(), one.tenant.name
        # A gap may also begin in the middle of a sweep: the machine is suspended, or its clock is set.
        since = awake.get(one.tenant.host, at) if at - now <= AWAY else at
        found = _look(context, one, fresh, due, since, disks.get(name), held.get(name))
        return found if context.now() - at <= AWAY else look(one)

    in_turn = sorted(chosen, key=lambda one: looked.get(one.tenant.name, 0))
    under_way = [threads.submit(look, one) for one in in_turn]
    wait(under_way, BUDGET)
    threads.shutdown(wait=False, cancel_futures=True)
    pairs = zip(in_turn, under_way, strict=True)
    looks = {one.tenant.name: _result(context, one, future) for one, future in pairs if not future.cancelled()}
    return {name: replace(look, before=watched.get(name)) for name, look in looks.items()}


def _watched(context: Context, now: float) -> dict[str, Before]:
    """Return what recently upgraded tenants were like on the day before the upgrade, by name.

    Tenants that were rolled back or restored since are left out: their *Roll back* would go further back.
    """
    rows = context.database.read(
        "SELECT tenant, max(finished) AS at, json_extract(plan, '$.values.from') AS version FROM operations"
        " INDEXED BY operations_by_end"
        " WHERE command IN ('upgrade', 'patch') AND state = 'succeeded' AND finished BETWEEN ?1 AND ?2"
        " AND NOT EXISTS (SELECT 1 FROM operations AS back WHERE back.tenant = operations.tenant"
        " AND back.command IN ('rollback', 'restore') AND back.state = 'succeeded'"
        " AND back.finished BETWEEN operations.finished AND ?2)"
        " GROUP BY tenant",
        now - context.settings.upgrades.watch * 60,
        now,
    )
    return {
        row["tenant"]: Before(row["version"], *metrics.day_before(context.database, row["tenant"], row["at"]))
        for row in rows
    }


def _result(context: Context, one: TenantEntry, future: Future[Look]) -> Look:
    """Return the look of a future, also of a late or failed one: one tenant's problem delays no other."""
    try:
        return future.result(0)
    except TimeoutError:
        why = f"`{one.tenant.name}` did not answer within {BUDGET:.0f} seconds."
    except Exception as error:
        why, _ = explain(error, f"looking at {one.tenant.name}")
    return Look(one.tenant, context.now(), one.state, problem=why)


def _look(
    context: Context,
    one: TenantEntry,
    fresh: bool,
    snapshot_due: float,
    awake: float,
    known: KnownDisk | None,
    held: Held | None,
) -> Look:
    """Look at one tenant: its state and, if it should be open, its page and its own report."""
    end = time.monotonic() + PATIENCE
    tenant, host, now = one.tenant, context.fleet.of(one.tenant), context.now()
    size, limits = context.settings.plans.get(tenant.plan), context.settings.health
    look = Look(
        tenant,
        now,
        one.state,
        (*one.left, *one.snapshots),
        size=size,
        snapshot_due=snapshot_due,
        awake=awake,
        held=held.held if held and tenant.is_about(held.at, now) else 0,
        allowed=context.settings.snapshots_allowed(tenant.plan),
        oldest=next((taken.name for taken in ours(one.snapshots) if not taken.keep), ""),
        rival=one.rival,
        foreign=bool(tenant.address) and not is_tenants(tenant.address, context.settings.lxd.subnet),
    )
    try:
        if fresh:
            look = replace(look, state=host.lxd.state(tenant.instance))
        usage = look.state.disk
        if tenant.state == State.MOVING:
            look = replace(_half_done(context, look), page=_page(context, tenant.domain))
        elif look.running and tenant.state == State.LIVE:
            look = replace(look, page=_page(context, tenant.domain))
            rest = end - time.monotonic()
            inside = host.mautic.health(tenant.instance, limits, size, usage=usage, awake=look.at - awake, timeout=rest)
            look = replace(look, inside=inside, disk=disk_of(inside["facts"]["disk"]))
        if not look.running and known:
            look = replace(look, disk=last_known(tenant, known, size, now), disk_at=known.at)
        elif look.running and tenant.state != State.LIVE:
            look = replace(look, disk=host.mautic.disk(tenant.instance, size, usage=usage, timeout=PATIENCE))
    except Exception as error:
        # One tenant's problem delays no other.
        why, _ = explain(error, f"looking at {tenant.name}")
        look = replace(look, problem=why)
    limit = look.disk.limit if look.disk else None
    memory = look.facts.get("memory_limit")
    if size:
        limit, memory = limit or size_bytes(size.disk), memory or size_bytes(size.memory)
    return replace(look, larger=larger_plans(context.settings.plans, limit or 0, memory or 0, tenant.plan))


def _half_done(context: Context, look: Look) -> Look:
    """Return a look with the operation, if any, that stopped halfway on its tenant."""
    waiting = context.operations.select("tenant = ? AND state = 'needs_attention'", look.tenant.name, limit=1)
    if not waiting:
        return look
    return replace(
        look, half_done=waiting[0].id, left=attention.told(waiting[0].aftermath), undoable=waiting[0].undoable
    )


def _page(context: Context, domain: str) -> Page:
    probe = context.edge.probe(domain, PAGE)
    answer = probe.error or f"HTTP {probe.status}"
    # An edge that shows a certificate works, though the tenant behind it is silent.
    answered = probe.status > 0 or probe.valid_until > 0
    return Page(probe.login, answer, probe.seconds, answered, probe.valid_from, probe.valid_until)


def _snapshot_due(context: Context) -> float:
    """Return the longest time between two snapshots of a tenant, in seconds; 0: none are taken."""
    if not any(job.name == "snapshots" and not job.paused for job in context.jobs.all()):
        return 0
    return next((seconds for tier, seconds in TIERS.items() if getattr(context.settings.snapshots, tier)), 0)


def look_at_stopped(
    context: Context, tenants: Iterable[TenantEntry], strained: Collection[str], held: Collection[str]
) -> dict[str, Look]:
    """Return looks at tenants that should run and do not, on overloaded hosts.

    They are read from the inventory, which adds no load there. `strained`: the overloaded hosts. `held`: tenants to
    leave out because of an operation.
    """
    return {
        one.tenant.name: Look(one.tenant, context.now(), one.state)
        for one in tenants
        if one.tenant.host in strained
        and one.tenant.name not in held
        and (one.tenant.state, one.tenant.stopped) == (State.LIVE, False)
        and one.state.status != "Running"
    }


def at_hosts(context: Context, silent: Mapping[str, str], tenants: Collection[Tenant]) -> dict[str, HostLook]:
    """Look at each server and each member of a cluster, by name; `silent`: why servers do not answer."""
    looks = {server: HostLook(server, why) for server, why in silent.items()}
    for server, lxd in context.fleet.servers.items():
        if server in silent:
            continue
        try:
            members = {member.name: member for member in lxd.members()}
        except LxdError as error:
            looks[server] = HostLook(server, str(error))
            continue
        looks[server] = HostLook(server)
        for name in members or [server]:
            if name in members and not members[name].online:
                looks[name] = HostLook(name, f"The cluster `{server}` reports this member as {members[name].status}.")
            else:
                looks[name] = _at_host(name, lxd.at(name) if members else lxd)
    found = {name: diagnose_host(look, context.settings) for name, look in looks.items()}
    free = {name: look.pool.total - look.pool.used for name, look in looks.items() if look.pool}
    for name, look in looks.items():
        if found[name].has("pool"):
            # Nothing that needs memory is started on an overloaded host.
            able = [other for other in free if other != name and not found[other].has("strain")]
            looks[name] = replace(look, move=_way_out(context, name, free, able, tenants))
    return looks


def _at_host(name: str, lxd: Lxd) -> HostLook:
    try:
        return HostLook(name, pool=lxd.pool(), resources=lxd.resources())
    except LxdError as error:
        return HostLook(name, str(error))


def _way_out(
    context: Context, host: str, free: Mapping[str, int], able: Collection[str], tenants: Collection[Tenant]
) -> tuple[str, str]:
    """Return the largest tenant of a host that fits on an `able` host, and that host; or ("", "")."""
    target = max(able, key=lambda name: free[name], default="")
    disks = metrics.disks(context.database) if target else {}
    has = {one.name: disks[one.name].used for one in tenants if one.host == host and one.name in disks}
    fit = [name for name, used in has.items() if used + LEAST < free[target] and used < free[target] - free[host]]
    return (max(fit, key=lambda name: has[name]), target) if fit else ("", "")


def host_readings(looks: Mapping[str, HostLook]) -> dict[str, HostReading]:
    """Return what is stored of each look at a host that answered."""
    return {
        name: HostReading(
            look.pool.used, look.pool.total, look.resources.used, look.resources.total, look.resources.load
        )
        for name, look in looks.items()
        if look.pool and look.resources
    }


def readings(looks: Iterable[Look]) -> list[Reading]:
    """Return what is stored of each look; of a look that makes no sense, only that there was one."""
    found = []
    for look in looks:
        try:
            found.append(_reading(look))
        except Exception as error:
            explain(error, f"measuring {look.tenant.name}")
            found.append(Reading(look.tenant.name))
    return found


def _reading(look: Look) -> Reading:
    """Return what is stored of a look. A crashed tenant is down; one stopped on purpose is neither up nor down."""
    facts = look.facts
    down = not look.running and look.tenant.state == State.LIVE and not look.tenant.stopped
    disk = None if look.disk_at else look.disk
    return Reading(
        look.tenant.name,
        up=look.page.login if look.page else False if down else None,
        page=look.page.seconds if look.page and look.page.login else None,
        memory=facts.get("memory") or None,
        disk=disk.used if disk else None,
        disk_limit=disk.limit if disk else None,
        cpu_time=look.state.cpu or None,
        queue_age=facts.get("queue_age"),
        contacts=facts.get("contacts"),
        log_errors=facts.get("log_errors_day"),
    )
