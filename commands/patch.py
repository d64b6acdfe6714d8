"""`/mautic patch`: bring a tenant to newer Debian packages, with the same Mautic."""

from __future__ import annotations

from dataclasses import replace

from bot.engine.bases import earliest_useful_base, refuse_newest
from bot.engine.context import Context, Run
from bot.engine.on_new_base import steps_on_new_base
from bot.engine.registry import TenantsArgument, complete, not_half_way, operation, steps_of
from bot.engine.rings import as_rehearsed, in_rings, rehearse_all
from bot.engine.selection import Selection, batch
from bot.engine.times import begins, planned, refuse_outside_hours, time_of
from bot.engine.upgrade_plans import UpgradeInputs, rehearsal_of, rehearse_first, upgrade_of
from bot.engine.upgrades import FRESH, WHY, refuse_resting, rehearsed, unrehearsed
from bot.model.moments import spelled
from bot.model.plan import Plan, Steps
from bot.slack.messages import Message


@not_half_way
@operation
def patch(
    context: Context,
    tenant: TenantsArgument = "",
    *,
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
    at: str = "",
) -> Plan | Message:
    """Bring a tenant to newer Debian packages (PHP, MariaDB, nginx and all else), with the same Mautic.

    Its files and database are copied to a new container that is made with newer packages; traffic is switched when the
    pages work there, and if anything fails before that, the tenant keeps running unchanged. This is first rehearsed on
    copies, at once and without approval; what the rehearsal found is on the card. To patch several tenants, name them
    with commas between, or choose them with `--all`, `--host`, `--size` or `--tag`; those whose packages are of today
    are left out, and the others are patched in rings, as in a rollout. `--at` is when it starts, such as `22:00`,
    `tomorrow 03:00` or `2026-12-01 02:00`; until then it can be cancelled. If the bot is down then, it starts up to an
    hour late, or not at all.
    """
    starts = time_of(context, at, FRESH, WHY)
    refuse_outside_hours(context, starts)
    first = begins(context, starts)
    selection = Selection(tenant, all, host, size, tag)
    again = f"patch {selection.words}" + (f" --at {spelled(starts, context.renderer.zone)}" if starts else "")
    if selection.one:
        return _one(context, tenant, again, starts)
    selection.refuse_both("patch")
    if untried := unrehearsed(context, selection, "", first, command="patch"):
        number = rehearse_all(
            context,
            selection,
            untried,
            again,
            lambda context, name: rehearsal_of(context, name, "", offer=False, base=True),
            doing="Rehearse the Debian update of",
            arguments={"base": True},
        )
        return context.renderer.message("commands/patch_rehearsing.j2", number=number, chosen=selection.chooses)
    made = batch(
        context,
        "patch",
        selection,
        lambda context, name: _patch(context, name, first),
        doing="Update the Debian packages of",
        arguments={},
    )
    return planned(context, in_rings(context, made, again, {}), starts)


def _one(context: Context, name: str, again: str, starts: float) -> Plan | Message:
    found = context.fleet.tenant(name)
    # First, as only a tenant that runs can be asked what it consists of.
    refuse_resting(found, "patched")
    refuse_newest(context, found)
    told = rehearsed(context, context.fleet.of(found), found, found.version, begins(context, starts))
    if told:
        return planned(context, upgrade_of(context, found, told), starts)
    plan = rehearsal_of(context, name, "", offer=True, base=True)
    plan = complete(context.registry.command("rehearse"), context, plan)
    rehearse_first(context, replace(plan, texts={**plan.texts, "upgrade": again}))
    return context.renderer.message("commands/patch_rehearsing.j2", number=1, name=name)


def _patch(context: Context, name: str, at: float) -> Plan:
    found = context.fleet.tenant(name)
    earliest_useful_base(context, found)
    return as_rehearsed(context, found, "", at)


@steps_of(patch)
def steps(run: Run, inputs: UpgradeInputs) -> Steps:
    """Copy the tenant's files and database to a container from a newer blueprint, which replaces the present one."""
    return steps_on_new_base(run, inputs, "patch")
