"""`/mautic status`: checks one tenant now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.engine.context import Context
from bot.engine.registry import TenantArgument, query
from bot.fleet import bases
from bot.fleet.advisories import advisories, told
from bot.fleet.bases import Stand
from bot.guest.blueprint.furniture import is_behind
from bot.guest.mautic import Disk
from bot.lxd.protocol import LxdError
from bot.model import findings
from bot.model.tenants import Tenant
from bot.reports.condition import conditions, looked_at_now
from bot.slack.messages import Message
from bot.store import metrics
from bot.store.freezes import Freezes
from bot.store.operation import WORTH_TELLING


@query
def status(context: Context, tenant: TenantArgument) -> Message:
    """Check one tenant now: public page, database, cron jobs, e-mail, disk and memory."""
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    state = host.lxd.state(found.instance)
    found = replace(found, status=state.status)
    # A tenant that is closed on purpose is neither healthy nor unhealthy.
    live = found.standing == "running"
    health: dict[str, Any] = {"healthy": True, "checks": {}, "facts": {}}
    problem, size = "", context.settings.plans.get(found.plan)
    disk: Disk | None = None
    known = metrics.disks(context.database).get(found.name)
    existing = host.lxd.snapshots(found.instance)
    try:
        if live:
            now = context.now()
            awake = now - metrics.awake_since(context.database, now).get(found.host, now)
            limits = context.settings.health
            health |= host.mautic.health(found.instance, limits, size, usage=state.disk, awake=awake)
        elif state.status == "Running":
            disk = host.mautic.disk(found.instance, size, usage=state.disk)
    except LxdError as error:
        problem = str(error)
    probe = context.edge.probe(found.domain) if live else None
    return context.renderer.message(
        "commands/status.j2",
        tenant=found,
        state=state,
        disk=disk,
        snapshots=len(existing),
        held=sum(one.size for one in existing),
        held_allowed=context.settings.snapshots_allowed(found.plan),
        known=known if state.status != "Running" and known and found.is_about(known.at, context.now()) else None,
        probe=probe,
        health=health,
        lines=findings.LINES,
        problem=problem,
        condition=looked_at_now(
            conditions(context, [found], looked=True)[found.instance],
            probe.login if probe else None,
            [findings.titles(["inside"])]
            if problem
            else list(dict.fromkeys(findings.red(name) for name, one in health["checks"].items() if not one["ok"])),
        ),
        behind=is_behind(found),
        base=_base(context, found, problem),
        holes=told(advisories(context.settings), found.version),
        frozen=Freezes(context.operations).on(tenant),
        url=context.settings.edge.url(found.domain),
        last=context.operations.select(
            f"tenant = ? AND {WORTH_TELLING}", tenant, order="created DESC, id DESC", limit=3
        ),
    )


def _base(context: Context, found: Tenant, problem: str) -> Stand:
    """Return what a tenant runs on. Where its blueprint does not tell, the tenant is asked, if it runs and answers."""
    known = bases.stands(context.settings, [found])[found.instance]
    if known.lacks is not None or found.standing != "running" or problem:
        return known
    try:
        told = context.fleet.of(found).mautic.call(found.instance, "base", {}, timeout=20)
    except LxdError:
        return known
    return bases.stand(context.settings, known.suite, known.at or told["since"], told["packages"] or None)
