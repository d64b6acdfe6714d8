"""Plans rollouts: batches of upgrades or patches, in rings, each rehearsed before people decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bot.engine.context import Context
from bot.engine.selection import Selection, batch, left_out_of
from bot.engine.upgrade_plans import pace_of, rehearse_first, unpaused, upgrade_of
from bot.engine.upgrades import tried
from bot.model.plan import Plan, Refused
from bot.model.tenants import Tenant
from bot.model.text import seconds


def in_rings(context: Context, made: Plan, again: str, facts: Mapping[str, str]) -> Plan:
    """Return the plan of a batch with its children in rings: canaries first, then a share, then the rest.

    `again`: the command that requests the rollout. `facts`: for the card, beside those of every rollout.
    """
    pace = context.settings.rollouts
    children = _ordered(context, made.children)
    sizes = [sum(child.ring == ring for child in children) for ring in sorted({child.ring for child in children})]
    soak = pace.soak * 60 if len(sizes) > 1 else 0
    names = ",".join(child.tenant for child in children) + ("," if len(children) == 1 else "")
    left_out = made.texts["left_out"].splitlines()
    why, whole = left_out_of(left_out)
    return replace(
        made,
        children=children,
        arguments={**made.arguments, "tenant": names},
        facts={
            "Clients offline": _for_about([float(child.values["away"]) for child in children]),
            **made.facts,
            **facts,
            "Rehearsals": f"{len(children)} passed, within a day",
            "Pace": f"{pace_of(context)}, pauses after {pace.stop_after} failure{'s' if pace.stop_after > 1 else ''}",
            "Rings": ", then ".join(map(str, sizes)) + (f", {pace.soak} min apart" if soak else ""),
        },
        values={**made.values, "tenants": names.strip(","), "stop_after": pace.stop_after, "soak": soak},
        remarks={**made.remarks, **({"Left out": f"{len(left_out)}: {why}" if whole else why} if why else {})},
        texts={
            "again": again,
            "thread": context.renderer.words("commands/rollout_list.j2", children=children, left_out=left_out),
        },
    )


def as_rehearsed(context: Context, found: Tenant, version: str, at: float) -> Plan:
    """Return the plan of the upgrade of one tenant of a rollout, whose rehearsal has passed.

    `version`: "" for a patch. `at`: when the first ring begins, in epoch seconds. Raises Refused if the rehearsal has
    not passed; the card shows its text for a tenant that is left out.
    """
    told = tried(context, found, version, at)
    if told is None:
        raise Refused(f"the rehearsal of `{found.name}` did not finish within a day")
    if not told.passed:
        why = told.failed or "something would be worse than before"
        raise Refused(f"the rehearsal of `{found.name}` did not pass: {why}")
    return upgrade_of(context, found, told)


def _for_about(away: Sequence[float]) -> str:
    least, most = (seconds(round(one)) for one in (min(away), max(away)))
    return f"each for about {least if least == most else f'{least} to {most}'}, with a maintenance page"


def _ordered(context: Context, children: Sequence[Plan]) -> tuple[Plan, ...]:
    """Return the children in the order of their rings: canaries, a share of the others, the rest."""
    pace = context.settings.rollouts
    tagged = {one.name for one in context.fleet.tenants() if pace.canary in one.tags}
    canaries = [child for child in children if child.tenant in tagged]
    others = [child for child in children if child.tenant not in tagged]
    share = math.ceil(len(others) * pace.share / 100)
    rings = [canaries, others[:share], others[share:]]
    filled = [ring for ring in rings if ring]
    return tuple(replace(child, ring=number) for number, ring in enumerate(filled) for child in ring)


def rehearse_all(
    context: Context,
    selection: Selection,
    untried: Sequence[str],
    again: str,
    rehearsal: Callable[[Context, str], Plan],
    *,
    doing: str,
    arguments: Mapping[str, str | bool],
) -> int:
    """Request rehearsals of the `untried` tenants, and return how many.

    When these have ended, `schedules/offers.py` requests the rollout with the command `again`.
    """
    under_way = context.operations.select(
        "command = 'rehearse' AND json_extract(plan, '$.texts.then') = ? AND state IN ('queued', 'running')", again
    )
    if under_way:
        raise Refused(f"Request #{under_way[0].id} rehearses this already, and what you asked for is requested then.")

    def one(context: Context, name: str) -> Plan:
        if name not in untried:
            raise Refused(f"{name} was rehearsed already, or needs no rehearsal")
        return rehearsal(context, name)

    plan = batch(
        context,
        "rehearse",
        # Every named tenant has to be possible; of those selected by options, impossible ones are left out.
        Selection(",".join(untried) + ",") if selection.names else selection,
        one,
        doing=doing,
        arguments=arguments,
    )
    plan = unpaused(context, plan)
    rehearse_first(context, replace(plan, texts={**plan.texts, "then": again}))
    return len(plan.children)
