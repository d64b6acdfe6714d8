"""`/mautic rollout`: upgrade many tenants in rings, after a rehearsal of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bot.engine.context import Context
from bot.engine.registry import TenantsArgument, operation
from bot.engine.selection import Selection, batch
from bot.engine.times import begins, planned, refuse_outside_hours, time_of
from bot.engine.upgrade_plans import pace_of, rehearsal_of, rehearse_first, unpaused, upgrade_of
from bot.engine.upgrades import FRESH, WHY, refuse_detour, refuse_resting, refuse_unknown, tried, unrehearsed
from bot.model.moments import spelled
from bot.model.plan import Plan, Refused
from bot.model.releases import newest_first
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
    holes: bool = False,
    at: str = "",
) -> Plan | Message:
    """Upgrade many tenants to a release of Mautic: canaries first, then a share, then the rest.

    Each upgrade is rehearsed first, at once and without approval; what the rehearsals found is on the card. Between two
    rings there is a pause, and at the first failure the rollout pauses by itself. Tenants that cannot be upgraded, or
    whose rehearsal did not pass, are left out, and the card says why. `--holes` selects the
    tenants that run a version with known security holes. `--at` is when the first ring starts, such as
    `22:00`, `tomorrow 03:00` or `2026-12-01 02:00`; until then the rollout can be cancelled.
    """
    starts = time_of(context, at, FRESH, WHY)
    refuse_outside_hours(context, starts)
    selection = Selection(tenant, all, host, size, tag, holes)
    selection.refuse_both(f"rollout {version}")
    refuse_unknown(context, version)
    refuse_detour(context, selection, version)
    again = f"rollout {version} {selection.words}"
    again += f" --at {spelled(starts, context.renderer.zone)}" if starts else ""
    first = begins(context, starts)
    if untried := unrehearsed(context, selection, version, first):
        return _rehearse(context, selection, version, untried, again, first)
    pace = context.settings.rollouts
    made = batch(
        context,
        "rollout",
        selection,
        lambda context, name: _upgrade(context, name, version, first),
        doing=f"Upgrade to Mautic {version}:",
        arguments={"version": version},
        child="upgrade",
    )
    children = _in_rings(context, made.children)
    sizes = [sum(child.ring == ring for child in children) for ring in sorted({child.ring for child in children})]
    soak = pace.soak * 60 if len(sizes) > 1 else 0
    names = ",".join(child.tenant for child in children) + ("," if len(children) == 1 else "")
    away = [float(child.values["away"]) for child in children]
    from_ = Counter(str(child.values["from"]) for child in children)
    left_out = made.texts["left_out"].splitlines()
    whole = replace(
        made,
        children=children,
        arguments={**made.arguments, "tenant": names},
        facts={
            "Clients offline": _for_about(away),
            **made.facts,
            "From": ", ".join(f"{from_[one]} on {one}" for one in newest_first(from_)),
            "Rehearsals": f"{len(children)} passed, within a day",
            "Pace": f"{pace_of(context)}, pauses after {pace.stop_after} failure{'s' if pace.stop_after > 1 else ''}",
            "Rings": ", then ".join(map(str, sizes)) + (f", {pace.soak} min apart" if soak else ""),
        },
        values={**made.values, "tenants": names.strip(","), "stop_after": pace.stop_after, "soak": soak},
        remarks={**made.remarks, **({"Left out": f"{len(left_out)}: {'; '.join(left_out)}"} if left_out else {})},
        texts={
            "again": again,
            "thread": context.renderer.words("commands/rollout_list.j2", children=children, left_out=left_out),
        },
    )
    return planned(context, whole, starts)


def _for_about(away: Sequence[float]) -> str:
    least, most = (seconds(round(one)) for one in (min(away), max(away)))
    return f"each for about {least if least == most else f'{least} to {most}'}, with a maintenance page"


def _upgrade(context: Context, name: str, version: str, at: float) -> Plan:
    found = context.fleet.tenant(name)
    refuse_resting(found, "upgraded")
    told = tried(context, found, version, at)
    if told is None:
        raise Refused(f"no rehearsal of {name} has ended within a day")
    if not told.passed:
        raise Refused(f"the rehearsal of {name} did not pass: {told.failed or 'something would be worse than before'}")
    return upgrade_of(context, found, told)


def _rehearse(
    context: Context, selection: Selection, version: str, untried: Sequence[str], again: str, at: float
) -> Message:
    """Have them rehearsed; `schedules/offers.py` requests the rollout, `again`, when that has ended."""
    under_way = context.operations.select(
        "command = 'rehearse' AND json_extract(plan, '$.texts.then') = ? AND state IN ('queued', 'running')", again
    )
    if under_way:
        raise Refused(f"Request #{under_way[0].id} rehearses this already, and the rollout is requested when it ends.")

    def rehearsal(context: Context, name: str) -> Plan:
        if tried(context, context.fleet.tenant(name), version, at):
            raise Refused(f"{name} was rehearsed already")
        return rehearsal_of(context, name, version, offer=False)

    plan = batch(
        context,
        "rehearse",
        # Of what was named each has to be possible; of what was chosen the rest goes on without what is not.
        Selection(",".join(untried) + ",") if selection.names else selection,
        rehearsal,
        doing=f"Rehearse the upgrade to Mautic {version} of",
        arguments={"version": version},
    )
    plan = unpaused(context, plan)
    rehearse_first(context, replace(plan, texts={**plan.texts, "then": again}))
    return context.renderer.message("commands/rollout_rehearsing.j2", number=len(plan.children), version=version)


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
