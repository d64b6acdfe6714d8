"""`/mautic rollout`: upgrade many tenants in rings, after a rehearsal of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bot.engine.context import Context
from bot.engine.registry import TenantsArgument, operation
from bot.engine.selection import Selection, batch
from bot.engine.upgrade_plans import rehearsal_of, upgrade_of
from bot.engine.upgrades import tried, unrehearsed
from bot.model.plan import Plan, Refused
from bot.model.text import seconds
from bot.slack.messages import Message


@operation
def rollout(
    context: Context,
    version: str,
    tenant: TenantsArgument = "",
    *,
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
) -> Plan | Message:
    """Upgrade many tenants to a release of Mautic: canaries first, then a share, then the rest.

    Each upgrade is rehearsed first, at once and without approval; what the rehearsals found is on the card. Between two
    rings there is a pause, and at the first failure the rollout pauses by itself. Tenants that cannot be upgraded, or
    whose rehearsal did not pass, are left out, and the card says why.
    """
    selection = Selection(tenant, all, host, size, tag)
    selection.refuse_both(f"rollout {version}")
    if untried := unrehearsed(context, selection, version):
        return _rehearse(context, selection, version, untried)
    pace = context.settings.rollouts
    made = batch(
        context,
        "rollout",
        selection,
        lambda context, name: _upgrade(context, name, version),
        doing=f"Upgrade to Mautic {version}:",
        arguments={"version": version},
        child="upgrade",
    )
    children = _in_rings(context, made.children)
    sizes = [sum(child.ring == ring for child in children) for ring in sorted({child.ring for child in children})]
    soak = pace.soak * 60 if len(sizes) > 1 else 0
    names = ",".join(child.tenant for child in children) + ("," if len(children) == 1 else "")
    away = [float(child.values["away"]) for child in children]
    return replace(
        made,
        children=children,
        arguments={**made.arguments, "tenant": names},
        facts={
            **made.facts,
            "Downtime": f"about {seconds(min(away))} to {seconds(max(away))} for each client",
            "Rings": ", then ".join(map(str, sizes)) + (f", {pace.soak} min apart" if soak else ""),
        },
        values={**made.values, "tenants": names.strip(","), "stop_after": pace.stop_after, "soak": soak},
        texts={"again": f"rollout {version} {selection.words}"},
    )


def _upgrade(context: Context, name: str, version: str) -> Plan:
    found = context.fleet.tenant(name)
    told = tried(context, found, version)
    if told is None:
        raise Refused(f"{name} was not rehearsed within a day")
    if not told.passed:
        raise Refused(f"its rehearsal did not pass: {told.failed or 'it would be worse than before'}")
    return upgrade_of(context, found, told)


def _rehearse(context: Context, selection: Selection, version: str, untried: Sequence[str]) -> Message:
    """Have them rehearsed; `schedules/offers.py` requests the rollout when that has ended."""
    names = Selection(",".join(untried) + ",")
    again = f"rollout {version} {selection.words}"
    plan = batch(
        context,
        "rehearse",
        names,
        lambda context, name: rehearsal_of(context, name, version, offer=False),
        doing=f"Rehearse the upgrade to Mautic {version} of",
        arguments={"version": version},
    )
    context.operations.request(
        "rehearse",
        replace(plan, texts={**plan.texts, "then": again}),
        requester=context.actor.id,
        channel=context.channel,
        request_key=f"{context.delivery}.rehearse",
        hours=24,
        approved=True,
    )
    return context.renderer.message("commands/rollout_rehearsing.j2", number=len(untried), version=version)


def _in_rings(context: Context, children: Sequence[Plan]) -> tuple[Plan, ...]:
    """Return the children with their rings, in that order: canaries, a share, the rest."""
    pace = context.settings.rollouts
    tagged = {one.name for one in context.fleet.tenants() if pace.canary in one.tags}
    canaries = [child for child in children if child.tenant in tagged]
    others = [child for child in children if child.tenant not in tagged]
    share = math.ceil(len(others) * pace.share / 100)
    rings = [canaries, others[:share], others[share:]]
    filled = [ring for ring in rings if ring]
    return tuple(replace(child, ring=number) for number, ring in enumerate(filled) for child in ring)
