"""`/mautic rollout`: upgrade many tenants in rings, after a rehearsal of each."""

from __future__ import annotations

from collections import Counter

from bot.engine.context import Context
from bot.engine.registry import TenantsArgument, operation
from bot.engine.rings import as_rehearsed, in_rings, rehearse_all
from bot.engine.selection import Selection, batch
from bot.engine.times import begins, planned, refuse_outside_hours, time_of
from bot.engine.upgrade_plans import rehearsal_of
from bot.engine.upgrades import FRESH, WHY, refuse_detour, refuse_resting, refuse_unknown, unrehearsed
from bot.model.moments import spelled
from bot.model.plan import Plan
from bot.model.releases import newest_first
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
    `22:00`, `tomorrow 03:00` or `2026-12-01 02:00`; until then the rollout can be cancelled. If the bot is down then,
    it starts up to an hour late, or not at all.
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
        number = rehearse_all(
            context,
            selection,
            untried,
            again,
            lambda context, name: rehearsal_of(context, name, version, offer=False),
            doing=f"Rehearse the upgrade to Mautic {version} of",
            arguments={"version": version},
        )
        return context.renderer.message(
            "commands/rollout_rehearsing.j2", number=number, version=version, chosen=selection.chooses
        )
    made = batch(
        context,
        "rollout",
        selection,
        lambda context, name: _upgrade(context, name, version, first),
        doing=f"Upgrade to Mautic {version}:",
        arguments={"version": version},
        child="upgrade",
    )
    running = Counter(str(child.values["from"]) for child in made.children)
    of = ", ".join(f"{running[one]} on {one}" for one in newest_first(running))
    return planned(context, in_rings(context, made, again, {"From": of}), starts)


def _upgrade(context: Context, name: str, version: str, at: float) -> Plan:
    found = context.fleet.tenant(name)
    refuse_resting(found, "upgraded")
    return as_rehearsed(context, found, version, at)
