"""`/mautic patch`: bring a tenant to newer Debian packages, with the same Mautic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.engine.bases import newer_than, refuse_newest
from bot.engine.context import Context, Run
from bot.engine.on_new_base import steps_on_new_base
from bot.engine.registry import TenantsArgument, complete, not_half_way, operation, steps_of
from bot.engine.selection import Selection, batch
from bot.engine.upgrade_plans import UpgradeInputs, rehearsal_of, rehearse_first, upgrade_of
from bot.engine.upgrades import refuse_resting, rehearsed, tried, unrehearsed
from bot.model.plan import Plan, Refused, Steps
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
) -> Plan | Message:
    """Bring a tenant to newer Debian packages (PHP, MariaDB, nginx and all else), with the same Mautic.

    Its files and database are copied to a new container that is made with newer packages; traffic is switched when the
    pages work there, and if anything fails before that, the tenant goes on as it was. This is first rehearsed on
    copies, at once and without approval; what the rehearsal found is on the card. To patch several tenants, name them
    with commas between, or choose them with `--all`, `--host`, `--size` or `--tag`; those whose packages are of today
    are left out.
    """
    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return _one(context, tenant)
    selection.refuse_both("patch")
    if untried := unrehearsed(context, selection, "", command="patch"):
        return _rehearse(context, selection, untried)
    return batch(context, "patch", selection, _tried, doing="Update the Debian packages of", arguments={})


def _one(context: Context, name: str) -> Plan | Message:
    found = context.fleet.tenant(name)
    # Before it is asked what it is made of.
    refuse_resting(found, "patched")
    refuse_newest(context, found)
    told = rehearsed(context, context.fleet.of(found), found, found.version)
    return upgrade_of(context, found, told) if told else _rehearse(context, Selection(name), [name])


def _tried(context: Context, name: str) -> Plan:
    found = context.fleet.tenant(name)
    newer_than(context, found)
    told = tried(context, found, "")
    if told is None:
        raise Refused(f"{name} was not rehearsed within a day")
    if not told.passed:
        raise Refused(f"its rehearsal did not pass: {told.failed or 'it would be worse than before'}")
    return upgrade_of(context, found, told)


def _rehearse(context: Context, selection: Selection, names: Sequence[str]) -> Message:
    """Ask for the rehearsals; `schedules/offers.py` requests the patch when they have ended."""
    if selection.one:
        plan = rehearsal_of(context, names[0], "", offer=True, base=True)
    else:
        again = f"patch {selection.words}"

        def rehearsal(context: Context, name: str) -> Plan:
            if name not in names:
                raise Refused(f"{name} was rehearsed already, or its packages are of today")
            return rehearsal_of(context, name, "", offer=False, base=True)

        made = batch(
            context,
            "rehearse",
            # Of what was named each has to be possible; of what was chosen the rest goes on without what is not.
            Selection(",".join(names) + ",") if selection.names else selection,
            rehearsal,
            doing="Rehearse the Debian update of",
            arguments={"base": True},
        )
        plan = replace(made, texts={**made.texts, "then": again})
    rehearse_first(context, complete(context.registry.command("rehearse"), context, plan))
    return context.renderer.message("commands/patch_rehearsing.j2", names=list(names))


@steps_of(patch)
def steps(run: Run, inputs: UpgradeInputs) -> Steps:
    """Copy what is the tenant's own to a container of a newer blueprint, which takes its place."""
    return steps_on_new_base(run, inputs, "patch")
