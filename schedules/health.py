"""Looks at all tenants and hosts: keeps what it measures, opens incidents of what is wrong, closes what is over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from bot import errands, halt, quotas, samples
from bot.capacity import strain
from bot.errors import explain
from bot.fleet import Surveyed
from bot.health import (
    BLIPS,
    EDGE,
    LOG,
    TITLES,
    Diagnosis,
    Finding,
    Look,
    Page,
    diagnose,
    larger_plans,
    last_known,
    pool_finding,
)
from bot.incidents import Seen
from bot.labels import Role, State
from bot.lxd import LxdError, PoolSpace, size_bytes
from bot.mautic import disk_of
from bot.placement import LEAST
from bot.registry import Context
from bot.samples import DAY, Held, HostReading, KnownDisk, Reading
from bot.scheduler import schedule
from bot.tenants import Tenant
from bot.wire import is_tenants

WIDTH = 16
"""Tenants that are looked at side by side."""
PATIENCE = 20.0
"""Seconds that a tenant has for a look, which is its page and what it tells of itself: twice that fits a minute."""
PAGE = 12.0
"""Seconds of these that its page may take."""
BUDGET = 240.0
"""Seconds for all looks of a sweep; whom it does not come to is for the next one."""
AGAIN = 3.0
"""Seconds after which what may be a blip is looked at a second time."""
SETTLES = 15 * 60
"""Seconds that a host which was off has to start its tenants, beside those that it waits after each."""
FEW = 5
"""Tenants of a host that may stand still at once, each by a trouble of its own."""
TIERS = {"hourly": 3600, "daily": DAY, "weekly": 7 * DAY, "monthly": 31 * DAY}
"""Seconds between the snapshots of a tier, finest first."""
_HOLDS_BACK = (
    "No operation that needs memory starts there until it recovers. If it lasts, stop or move a tenant; "
    "`/mautic hosts` shows the other hosts."
)
_UNTOLD = frozenset(["pool", "strain"])
"""What a host that does not answer does not tell."""


@schedule(seconds=300)
def health(context: Context) -> None:
    """Look at every tenant and host, keep what is measured, and find what is wrong.

    A server is asked once for all its tenants; then each that runs is asked from inside and by its page, many side by
    side. What may be over in a moment has to be seen twice, and is passed over where a host was off until just now. Who
    is suspended, was stopped on purpose, or is in the hands of an operation is not sick.
    """
    began = context.now()
    halt.look_again(context)
    survey = context.fleet.survey()
    hosts, measured = _hosts(context, survey.silent, [one.tenant for one in survey.tenants])
    offline = {host for host, found in hosts.items() if any(finding.kind == "server" for finding in found.findings)}
    all_known = not offline & context.fleet.servers.keys()
    held = _held(context, began)
    # A look into each is work too, and what is found on a host in distress is its distress.
    passed = offline | {host for host, found in hosts.items() if any(one.kind == "strain" for one in found.findings)}
    chosen = {
        one.tenant.name: one for one in survey.tenants if one.tenant.name not in held and one.tenant.host not in passed
    }
    looks = _looks(context, chosen.values(), fresh=False)
    fallen = _fallen(context, survey.tenants, passed - offline, held)
    readings = _readings([*looks.values(), *fallen.values()])
    hosts[EDGE] = _edge(looks.values())
    tenants = _diagnoses(context, looks, hosts[EDGE])

    opened = context.incidents.open()
    known = {(incident.subject, incident.kind) for incident in opened}
    settling = _settling(context, looks, tenants, known)
    for name, look in looks.items():
        if {look.tenant.host, look.tenant.server} & settling:
            tenants[name] = _believed(name, tenants[name], known)
    doubtful = set(_doubtful(tenants, known))
    edge_doubtful = bool(_doubtful({EDGE: hosts[EDGE]}, known))
    if edge_doubtful:
        # As many pages as are asked for at once tell whether it is back.
        doubtful.update([name for name, look in looks.items() if look.page][:WIDTH])
    if doubtful or _doubtful(hosts, known):
        time.sleep(AGAIN)
        again = _looks(context, [chosen[name] for name in sorted(doubtful)], fresh=True)
        seen = context.fleet.look(Role.TENANT)
        second, _ = _hosts(context, seen.silent, seen.tenants)
        second[EDGE] = _edge(again.values()) if edge_doubtful else hosts[EDGE]
        _confirm(tenants, _diagnoses(context, again, second[EDGE]), known)
        _confirm(hosts, {host: found for host, found in second.items() if host in hosts}, known)

    counted = quotas.look(context, [one for one in survey.edges if one[0].name in hosts.keys() - passed])
    for host, found in hosts.items():
        told = counted.get(host, Diagnosis(unseen=frozenset(["quotas"])))
        hosts[host] = replace(found, findings=(*found.findings, *told.findings), unseen=found.unseen | told.unseen)
    tenants |= _fallen_long(context, fallen)
    # What an operation took in hand meanwhile is not judged either.
    held = _held(context, began)
    half_done = {operation.tenant for operation in context.operations.select("state = 'needs_attention'")}
    there = {one.tenant.name for one in survey.tenants}
    judged = {name: found for name, found in tenants.items() if name not in held}
    since = {one.tenant: one.opened for one in opened if one.kind == "errand" and one.tenant not in held}
    judged |= _errands(context, judged, since)
    gone = set()
    if not survey.silent:
        gone |= {
            (one.tenant, "") for one in opened if one.tenant and one.tenant not in {*there, *judged, *held, *half_done}
        }
    if all_known:
        gone |= {("", one.server) for one in opened if one.server and one.server not in {*hosts, LOG}}
    with context.database.transaction() as transaction:
        samples.record(transaction, began, readings, measured, context.lived.before)
        context.incidents.judge(transaction, Seen(judged, hosts, gone))


def _fallen(
    context: Context, tenants: Iterable[Surveyed], strained: Collection[str], held: Collection[str]
) -> dict[str, Look]:
    """Return who stands still on a host in distress, and should run: the survey told, so that it is no work there."""
    return {
        one.tenant.name: Look(one.tenant, context.now(), one.state)
        for one in tenants
        if one.tenant.host in strained
        and one.tenant.name not in held
        and (one.tenant.state, one.tenant.stopped) == (State.LIVE, False)
        and one.state.status != "Running"
    }


def _fallen_long(context: Context, fallen: Mapping[str, Look]) -> dict[str, Diagnosis]:
    """Say of whom has stood still for longer than a host needs to start all again that it does; and nothing else."""
    settles = SETTLES + len(fallen) * context.settings.capacity.start_delay
    down = samples.down_since(context.database, context.now() - settles)
    return {
        name: Diagnosis(
            tuple(finding for finding in one.findings if finding.kind == "stopped"), frozenset(TITLES) - {"stopped"}
        )
        for name, one in _diagnoses(context, fallen, Diagnosis()).items()
        if name in down
    }


def _held(context: Context, since: float) -> set[str]:
    """Return the tenants that an operation has in hand, or has had since then.

    One that was left half done has none: it may wait for somebody for days, as what a guard holds may.
    """
    rows = context.database.read(
        "SELECT tenant FROM operations WHERE state = 'running' OR state = 'queued' AND held_by = ''"
        " UNION SELECT tenant FROM operations WHERE finished BETWEEN ? AND ?",
        since,
        context.now(),
    )
    return {row["tenant"] for row in rows}


def _hosts(
    context: Context, silent: Mapping[str, str], tenants: Collection[Tenant]
) -> tuple[dict[str, Diagnosis], dict[str, HostReading]]:
    """Say what is wrong with each server and each member of a cluster; and what was measured of those that answer."""
    found = {server: Diagnosis((Finding("server", why),), _UNTOLD) for server, why in silent.items()}
    readings: dict[str, HostReading] = {}
    for server, lxd in context.fleet.servers.items():
        if server in silent:
            continue
        try:
            members = {member.name: member for member in lxd.members()}
        except LxdError as error:
            found[server] = Diagnosis((Finding("server", str(error)),), _UNTOLD)
            continue
        found[server] = Diagnosis()
        for name in members or [server]:
            if name in members and not members[name].online:
                text = f"Its cluster says of it, a member of `{server}`: {members[name].status}."
                found[name] = Diagnosis((Finding("server", text),), _UNTOLD)
                continue
            there = lxd.at(name) if members else lxd
            try:
                space, has = there.pool(), there.resources()
            except LxdError as error:
                found[name] = Diagnosis((Finding("server", str(error)),), _UNTOLD)
                continue
            readings[name] = HostReading(space.used, space.total, has.used, has.total, has.load)
            why = strain(has, context.settings.capacity)
            found[name] = Diagnosis(
                (Finding("strain", f"Host `{name}` is in distress: {why}. {_HOLDS_BACK}"),) if why else ()
            )
    free = {name: one.total - one.used for name, one in readings.items()}
    for name, one in readings.items():
        space = PoolSpace(one.used, one.total)
        if pool_finding(name, space, context.settings.health):
            way_out, reserve = _way_out(context, name, free, tenants), context.settings.snapshots.reserve
            full = pool_finding(name, space, context.settings.health, way_out, reserve=reserve)
            found[name] = replace(found[name], findings=tuple(filter(None, (full, *found[name].findings))))
    return found, readings


def _way_out(context: Context, host: str, free: Mapping[str, int], tenants: Collection[Tenant]) -> str:
    """Return the largest tenant of a host that another one has room for, and which, as `migrate` takes them; or ""."""
    target = max((name for name in free if name != host), key=lambda name: free[name], default="")
    disks = samples.disks(context.database) if target else {}
    has = {one.name: disks[one.name].used for one in tenants if one.host == host and one.name in disks}
    fit = [name for name, used in has.items() if used + LEAST < free[target] and used < free[target] - free[host]]
    return f"{max(fit, key=lambda name: has[name])} {target}" if fit else ""


def _looks(context: Context, chosen: Iterable[Surveyed], *, fresh: bool) -> dict[str, Look]:
    """Look at tenants side by side, whom no look came to for longest first; `fresh`: their state is asked for anew."""
    threads = ThreadPoolExecutor(WIDTH)
    now = context.now()
    due, awake = _snapshot_due(context), samples.awake_since(context.database, now) or now
    looked, disks = samples.looked_at(context.database, now), samples.disks(context.database)
    held = samples.snapshots(context.database)
    in_turn = sorted(chosen, key=lambda one: looked.get(one.tenant.name, 0))
    under_way = [
        threads.submit(_look, context, one, fresh, due, awake, disks.get(one.tenant.name), held.get(one.tenant.name))
        for one in in_turn
    ]
    wait(under_way, BUDGET)
    threads.shutdown(wait=False, cancel_futures=True)
    pairs = zip(in_turn, under_way, strict=True)
    return {one.tenant.name: _result(context, one, future) for one, future in pairs if not future.cancelled()}


def _result(context: Context, one: Surveyed, future: Future[Look]) -> Look:
    """Return a look, whatever became of it: it is this tenant's trouble, and holds up no other."""
    try:
        return future.result(0)
    except TimeoutError:
        why = f"`{one.tenant.name}` did not answer within {BUDGET:.0f} seconds."
    except Exception as error:
        why, _ = explain(error, f"looking at {one.tenant.name}")
    return Look(one.tenant, context.now(), one.state, trouble=why)


def _look(
    context: Context,
    one: Surveyed,
    fresh: bool,
    snapshot_due: float,
    awake: float,
    known: KnownDisk | None,
    held: Held | None,
) -> Look:
    """Look at one tenant: at its state, and when it is to be open, from inside and by its page."""
    end = time.monotonic() + PATIENCE
    tenant, host = one.tenant, context.fleet.of(one.tenant)
    size, limits = context.settings.plans.get(tenant.plan), context.settings.health
    look = Look(
        tenant,
        context.now(),
        one.state,
        (*one.left, *one.snapshots),
        size=size,
        snapshot_due=snapshot_due,
        awake=awake,
        held=held.held if held and held.at >= tenant.created else 0,
        allowed=context.settings.snapshots_allowed(tenant.plan),
        rival=one.rival,
        foreign=bool(tenant.address) and not is_tenants(tenant.address, context.settings.lxd.subnet),
    )
    try:
        if fresh:
            look = replace(look, state=host.lxd.state(tenant.instance))
        usage = look.state.disk
        if tenant.state == State.MOVING:
            number, left = _half_done(context, tenant.name)
            look = replace(look, page=_page(context, tenant.domain), half_done=number, left=left)
        elif look.state.status == "Running" and tenant.state == State.LIVE:
            look = replace(look, page=_page(context, tenant.domain))
            rest = end - time.monotonic()
            inside = host.mautic.health(tenant.instance, limits, size, usage=usage, timeout=rest)
            look = replace(look, inside=inside, disk=disk_of(inside["facts"]["disk"]))
        if look.state.status != "Running" and known:
            look = replace(look, disk=last_known(tenant, known, size), disk_at=known.at)
        elif look.state.status == "Running" and tenant.state != State.LIVE:
            look = replace(look, disk=host.mautic.disk(tenant.instance, size, usage=usage, timeout=PATIENCE))
    except Exception as error:
        # Whatever it is, it is this tenant's trouble, and holds up no other.
        why, _ = explain(error, f"looking at {tenant.name}")
        look = replace(look, trouble=why)
    limit = look.disk.limit if look.disk else None
    memory = (look.inside or {"facts": {}})["facts"].get("memory_limit")
    if size:
        limit, memory = limit or size_bytes(size.disk), memory or size_bytes(size.memory)
    return replace(look, larger=larger_plans(context.settings.plans, limit or 0, memory or 0))


def _half_done(context: Context, tenant: str) -> tuple[int, str]:
    waiting = context.operations.select("tenant = ? AND state = 'needs_attention'", tenant, limit=1)
    return (waiting[0].id, halt.told(waiting[0].aftermath)) if waiting else (0, "")


def _page(context: Context, domain: str) -> Page:
    probe = context.edge.probe(domain, PAGE)
    answer = probe.error or f"HTTP {probe.status}"
    # A tenant that says nothing behind an edge that shows its certificate is no trouble of the edge.
    answered = probe.status > 0 or probe.valid_until > 0
    return Page(probe.login, answer, probe.seconds, answered, probe.valid_from, probe.valid_until)


def _snapshot_due(context: Context) -> float:
    """Return the seconds within which a tenant's snapshots are to follow each other; 0: nobody takes any."""
    if not any(job.name == "snapshots" and not job.paused for job in context.jobs.all()):
        return 0
    return next((seconds for tier, seconds in TIERS.items() if getattr(context.settings.snapshots, tier)), 0)


def _diagnoses(context: Context, looks: Mapping[str, Look], edge: Diagnosis) -> dict[str, Diagnosis]:
    """Say what is wrong with each tenant; where it is the edge, nothing is said of its page."""
    return {
        name: _diagnosis(context, replace(look, page=None) if edge.findings else look) for name, look in looks.items()
    }


def _diagnosis(context: Context, look: Look) -> Diagnosis:
    try:
        return diagnose(look, context.settings.health)
    except Exception as error:
        # What a tenant tells of itself may be anything, and must not blind the bot for the others.
        why, _ = explain(error, f"judging {look.tenant.name}")
        return Diagnosis((Finding("inside", why),), frozenset(TITLES) - {"inside"})


def _settling(
    context: Context,
    looks: Mapping[str, Look],
    found: Mapping[str, Diagnosis],
    known: Collection[tuple[str, str]],
) -> set[str]:
    """Return the hosts and servers that were off until just now, as it was seen, or as many tenants tell there."""
    hosts = Counter(look.tenant.host for look in looks.values())
    since = context.now() - SETTLES - max(hosts.values(), default=0) * context.settings.capacity.start_delay
    off = {incident.server for incident in context.incidents.since(since) if incident.kind == "server"}
    fell = {
        name: looks[name].tenant.host
        for name, diagnosis in found.items()
        if (name, "stopped") not in known and any(finding.kind == "stopped" for finding in diagnosis.findings)
    }
    down = samples.down_since(context.database, since) if len(fell) > FEW else set()
    many = Counter(host for name, host in fell.items() if name not in down)
    return off | {host for host, tenants in many.items() if tenants > FEW}


def _believed(
    subject: str, diagnosis: Diagnosis, known: Collection[tuple[str, str]], seen: Collection[str] = ()
) -> Diagnosis:
    """Leave out what may be a blip and is no incident yet, but for the kinds that were seen before."""
    findings = tuple(
        finding
        for finding in diagnosis.findings
        if finding.kind not in BLIPS or finding.kind in seen or (subject, finding.kind) in known
    )
    return replace(diagnosis, findings=findings)


def _errands(context: Context, judged: Mapping[str, Diagnosis], known: Mapping[str, float]) -> Mapping[str, Diagnosis]:
    """Say whose errands fail, or failed until now: it is read from what was recorded, also where nobody can look.

    `known`: since when which tenants' errands are known to fail.

    A snapshot that is tried in vain is no second trouble where it is missing.
    """
    failing: dict[str, list[errands.Failing]] = {}
    for one in errands.failing(context):
        failing.setdefault(one.tenant, []).append(one)
    found = {}
    for tenant in failing.keys() | known.keys():
        seen = judged.get(tenant, Diagnosis(unseen=frozenset(TITLES)))
        failed = failing.get(tenant, [])
        causes = frozenset(one.command for one in failed)
        findings = [finding for finding in seen.findings if finding.kind not in causes]
        if failed:
            findings.append(Finding("errand", " ".join(one.text for one in failed)))
        given_up = not failed and errands.given_up(context, tenant, known[tenant] - DAY)
        unseen = (seen.unseen | causes) - {"errand"}
        found[tenant] = replace(seen, findings=tuple(findings), unseen=unseen, given_up=given_up)
    return found


def _edge(looks: Collection[Look]) -> Diagnosis:
    """Say whether it is the edge: of several pages none answers."""
    pages = [look.page for look in looks if look.page]
    if not pages:
        return Diagnosis(unseen=frozenset(["edge"]))
    if len(pages) < 2 or any(page.answered for page in pages):
        return Diagnosis()
    return Diagnosis((Finding("edge", f"None of {len(pages)} pages answers: {pages[0].answer}."),))


def _doubtful(found: Mapping[str, Diagnosis], known: Collection[tuple[str, str]]) -> list[str]:
    """Return of whom something is found that may be a blip, and is no incident yet."""
    return [
        subject
        for subject, diagnosis in found.items()
        if any(finding.kind in BLIPS and (subject, finding.kind) not in known for finding in diagnosis.findings)
    ]


def _confirm(first: dict[str, Diagnosis], second: Mapping[str, Diagnosis], known: Collection[tuple[str, str]]) -> None:
    """Put the second look in the place of the first; a blip that only the second one has is not believed yet."""
    for subject, diagnosis in second.items():
        first[subject] = _believed(subject, diagnosis, known, {finding.kind for finding in first[subject].findings})


def _readings(looks: Collection[Look]) -> list[Reading]:
    """Return what is kept of each look; of one that makes no sense, that there was one."""
    readings = []
    for look in looks:
        try:
            readings.append(_reading(look))
        except Exception as error:
            explain(error, f"measuring {look.tenant.name}")
            readings.append(Reading(look.tenant.name))
    return readings


def _reading(look: Look) -> Reading:
    """What of a look is kept. Who stands still by itself is down; who is meant to is neither up nor down."""
    facts = look.inside["facts"] if look.inside else {}
    down = look.state.status != "Running" and look.tenant.state == State.LIVE and not look.tenant.stopped
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
