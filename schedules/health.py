"""Checks all tenants and hosts: records measurements, and opens and closes incidents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from bot.engine import attention, health_checks, maintenance, quotas
from bot.engine.context import Context
from bot.engine.errors import explain
from bot.engine.scheduler import schedule
from bot.fleet.health import Look, diagnose, diagnose_host
from bot.model import findings
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import ABOUT_ALL, EDGE, FINDINGS
from bot.model.labels import Role
from bot.slack.incidents import Seen
from bot.store import metrics
from bot.store.metrics import DAY

AGAIN = 3.0
"""Seconds after which a possible blip is checked a second time."""
SETTLES = 15 * 60
"""Seconds that a host has to start its tenants after it was off, besides its pause after each."""
FEW = 5
"""Tenants of a host that may have stopped at once, each by a problem of its own; if more have, the host was off."""


@schedule(seconds=300)
def health(context: Context) -> None:
    """Check every tenant and host, record measurements, and open or close incidents.

    A server is asked once for all its tenants; then each that runs is asked from inside and by its page, many side by
    side. What may be over in a moment has to be seen twice, and is passed over where a host was off until just now. Who
    is suspended, was stopped on purpose, or is in the hands of an operation is not sick.
    """
    began = context.now()
    attention.assess_again(context)
    inventory = context.fleet.full_inventory()
    at_hosts = health_checks.at_hosts(context, inventory.silent, [one.tenant for one in inventory.tenants])
    hosts = {host: diagnose_host(look, context.settings) for host, look in at_hosts.items()}
    offline = {host for host, found in hosts.items() if found.has("server")}
    all_known = not offline & context.fleet.servers.keys()
    held = _held(context, began)
    # Checking each tenant adds load, and what is found on an overloaded host comes from the overload.
    passed = offline | {host for host, found in hosts.items() if found.has("strain")}
    chosen = {
        one.tenant.name: one
        for one in inventory.tenants
        if one.tenant.name not in held and one.tenant.host not in passed
    }
    seen = health_checks.at_tenants(context, chosen.values(), fresh=False)
    fallen = health_checks.look_at_stopped(context, inventory.tenants, passed - offline, held)
    readings = health_checks.readings([*seen.values(), *fallen.values()])
    hosts[EDGE] = _edge(seen.values())
    tenants = _diagnoses(context, seen, hosts[EDGE])

    opened = context.incidents.open()
    known = {(incident.subject, incident.kind) for incident in opened}
    settling = _settling(context, seen, tenants, known)
    for name, look in seen.items():
        if {look.tenant.host, look.tenant.server} & settling:
            tenants[name] = _believed(name, tenants[name], known)
    doubtful = set(_doubtful(tenants, known))
    edge_doubtful = bool(_doubtful({EDGE: hosts[EDGE]}, known))
    if edge_doubtful:
        # One round of parallel page requests tells whether the edge is back.
        doubtful.update([name for name, look in seen.items() if look.page][: health_checks.WIDTH])
    if doubtful or _doubtful(hosts, known):
        time.sleep(AGAIN)
        again = health_checks.at_tenants(context, [chosen[name] for name in sorted(doubtful)], fresh=True)
        fleet = context.fleet.inventory(Role.TENANT)
        hosts_again = health_checks.at_hosts(context, fleet.silent, fleet.tenants)
        second = {host: diagnose_host(look, context.settings) for host, look in hosts_again.items()}
        second[EDGE] = _edge(again.values()) if edge_doubtful else hosts[EDGE]
        _confirm(tenants, _diagnoses(context, again, second[EDGE]), known)
        _confirm(hosts, {host: found for host, found in second.items() if host in hosts}, known)

    counted = quotas.look(context, [one for one in inventory.edges if one[0].name in hosts.keys() - passed])
    for host, found in hosts.items():
        told = counted.get(host, Diagnosis(unseen=frozenset(["quotas"])))
        hosts[host] = replace(found, findings=(*found.findings, *told.findings), unseen=found.unseen | told.unseen)
    tenants |= _long_down(context, fallen)
    # Tenants that an operation began on meanwhile are not judged either.
    held = _held(context, began)
    half_done = {operation.tenant for operation in context.operations.select("state = 'needs_attention'")}
    there = {one.tenant.name for one in inventory.tenants}
    judged = {name: found for name, found in tenants.items() if name not in held}
    since = {one.tenant: one.opened for one in opened if one.kind == "errand" and one.tenant not in held}
    judged |= _failing_maintenance(context, judged, since)
    gone = set()
    if not inventory.silent:
        gone |= {
            (one.tenant, "") for one in opened if one.tenant and one.tenant not in {*there, *judged, *held, *half_done}
        }
    if all_known:
        gone |= {("", one.server) for one in opened if one.server and one.server not in {*hosts, *ABOUT_ALL}}
    with context.database.transaction() as transaction:
        metrics.record(transaction, began, readings, health_checks.host_readings(at_hosts), context.uptime.before)
        context.incidents.judge(transaction, Seen(judged, hosts, gone))


def _held(context: Context, since: float) -> set[str]:
    """Return the tenants with an operation that runs, is queued, or has ended since then (epoch seconds).

    Not those whose operation needs attention, or that a guard makes wait: that may last for days.
    """
    rows = context.database.read(
        "SELECT tenant FROM operations WHERE state = 'running' OR state = 'queued' AND held_by = ''"
        " UNION SELECT tenant FROM operations WHERE finished BETWEEN ? AND ?",
        since,
        context.now(),
    )
    return {row["tenant"] for row in rows}


def _long_down(context: Context, fallen: Mapping[str, Look]) -> dict[str, Diagnosis]:
    """Diagnose as stopped the tenants that are down for longer than a host needs to start all again; nothing else."""
    settles, now = SETTLES + len(fallen) * context.settings.capacity.start_delay, context.now()
    down = metrics.down_since(context.database, now - settles, now)
    return {
        name: Diagnosis(
            tuple(finding for finding in one.findings if finding.kind == "stopped"), frozenset(FINDINGS) - {"stopped"}
        )
        for name, one in _diagnoses(context, fallen, Diagnosis()).items()
        if name in down
    }


def _diagnoses(context: Context, seen: Mapping[str, Look], edge: Diagnosis) -> dict[str, Diagnosis]:
    """Return what is wrong with each tenant; where the edge has a problem, pages are left out."""
    return {
        name: _diagnosis(context, replace(look, page=None) if edge.findings else look) for name, look in seen.items()
    }


def _diagnosis(context: Context, look: Look) -> Diagnosis:
    try:
        return diagnose(look, context.settings.health)
    except Exception as error:
        # A tenant may report anything about itself; the bot must still judge the others.
        why, _ = explain(error, f"judging {look.tenant.name}")
        return Diagnosis((Finding("inside", why),), frozenset(FINDINGS) - {"inside"})


def _settling(
    context: Context,
    seen: Mapping[str, Look],
    found: Mapping[str, Diagnosis],
    known: Collection[tuple[str, str]],
) -> set[str]:
    """Return the hosts and servers that were off until just now: by an incident, or as many tenants there stopped."""
    hosts = Counter(look.tenant.host for look in seen.values())
    since = context.now() - SETTLES - max(hosts.values(), default=0) * context.settings.capacity.start_delay
    off = {incident.server for incident in context.incidents.since(since) if incident.kind == "server"}
    fell = {
        name: seen[name].tenant.host
        for name, diagnosis in found.items()
        if (name, "stopped") not in known and diagnosis.has("stopped")
    }
    down = metrics.down_since(context.database, since, context.now()) if len(fell) > FEW else set()
    many = Counter(host for name, host in fell.items() if name not in down)
    return off | {host for host, tenants in many.items() if tenants > FEW}


def _believed(
    subject: str, diagnosis: Diagnosis, known: Collection[tuple[str, str]], seen: Collection[str] = ()
) -> Diagnosis:
    """Leave out findings that may be a blip, unless they are open incidents (`known`) or of the kinds in `seen`."""
    told = tuple(
        finding
        for finding in diagnosis.findings
        if not findings.kind(finding.kind).blip or finding.kind in seen or (subject, finding.kind) in known
    )
    return replace(diagnosis, findings=told)


def _failing_maintenance(
    context: Context, judged: Mapping[str, Diagnosis], known: Mapping[str, float]
) -> Mapping[str, Diagnosis]:
    """Return the diagnoses of the tenants on which maintenance fails, or failed until now, with that added.

    The operations tell, so no tenant has to answer. Where taking snapshots fails, the missing snapshot is no second
    problem.

    Args:
        known: since when maintenance has been failing, by tenant with an open incident about it.
    """
    now = context.now()
    # Maintenance that could not be tried while the bot was away was not given up.
    tries = now - min(metrics.awake_since(context.database, now).values(), default=now) >= DAY
    failing: dict[str, list[maintenance.Failing]] = {}
    for one in maintenance.failing(context):
        failing.setdefault(one.tenant, []).append(one)
    found = {}
    for tenant in failing.keys() | known.keys():
        seen = judged.get(tenant, Diagnosis(unseen=frozenset(FINDINGS)))
        failed = failing.get(tenant, [])
        commands = {one.command for one in failed}
        effects = frozenset(row.key for row in FINDINGS.values() if row.caused_by in commands)
        told = [finding for finding in seen.findings if finding.kind not in effects]
        if failed:
            told.append(Finding("errand", " ".join(one.text for one in failed)))
        over = not failed and maintenance.given_up(context, tenant, min(known[tenant], context.now()) - DAY)
        found[tenant] = replace(
            seen,
            findings=tuple(told),
            unseen=(seen.unseen | effects) - {"errand"} | ({"errand"} if over and not tries else set()),
            given_up=frozenset(["errand"] if over else []),
        )
    return found


def _edge(seen: Collection[Look]) -> Diagnosis:
    """Diagnose the edge: it has a problem if none of several pages answers."""
    pages = [look.page for look in seen if look.page]
    if not pages:
        return Diagnosis(unseen=frozenset(["edge"]))
    if len(pages) < 2 or any(page.answered for page in pages):
        return Diagnosis()
    why = f"All {len(pages)} sites are unreachable: {pages[0].answer}."
    return Diagnosis((Finding("edge", f"{why} `/mautic doctor` checks the edge, and restarts it."),))


def _doubtful(found: Mapping[str, Diagnosis], known: Collection[tuple[str, str]]) -> list[str]:
    """Return the subjects with a finding that may be a blip and is no open incident."""
    return [
        subject
        for subject, diagnosis in found.items()
        if any(findings.kind(one.kind).blip and (subject, one.kind) not in known for one in diagnosis.findings)
    ]


def _confirm(first: dict[str, Diagnosis], second: Mapping[str, Diagnosis], known: Collection[tuple[str, str]]) -> None:
    """Replace the first look by the second; a possible blip that only the second one has is left out for now."""
    for subject, diagnosis in second.items():
        first[subject] = _believed(subject, diagnosis, known, {finding.kind for finding in first[subject].findings})
