"""`/mautic rehearse`: try an upgrade on a copy of a tenant."""

from __future__ import annotations

from bot.engine.base_rehearsal import BaseRehearsal
from bot.engine.context import Context, Run
from bot.engine.registry import TenantsArgument, not_half_way, operation, steps_of
from bot.engine.rehearsal import Rehearsal
from bot.engine.selection import Selection, batch
from bot.engine.upgrade_plans import RehearsalInputs, rehearsal_of, unpaused
from bot.engine.upgrades import archive_of
from bot.model.plan import Plan, Step, Steps


@not_half_way
@operation
def rehearse(
    context: Context,
    tenant: TenantsArgument = "",
    version: str = "",
    *,
    offer: bool = False,
    base: bool = False,
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
) -> Plan:
    """Try an upgrade on a copy of a tenant: how long it takes, what it changes, and what would break.

    The copy is closed, has no network, and is deleted afterwards; the tenant itself is not touched. Without a version
    it is the newest release that the tenant can be upgraded to. With `--base` it is what `patch` does: newer Debian
    packages with the same Mautic. With `--offer` the change is requested when the rehearsal has passed. To rehearse
    several, name them with commas between, or choose them with `--all`, `--host`,
    `--size` or `--tag`.
    """
    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return rehearsal_of(context, tenant, version, offer=offer, base=base)
    plan = batch(
        context,
        "rehearse",
        selection,
        lambda context, name: rehearsal_of(context, name, version, offer=False, base=base),
        doing="Rehearse the Debian update of" if base else "Rehearse the upgrade of",
        arguments={"version": version, **({"base": True} if base else {})},
    )
    return unpaused(context, plan)


@steps_of(rehearse)
def steps(run: Run, inputs: RehearsalInputs) -> Steps:
    """Copy the tenant, upgrade the copy as the tenant would be, compare, and delete the copy."""
    if inputs.base:
        moved = BaseRehearsal(run, inputs, lambda: archive_of(run, inputs.version))
        return Steps(
            (
                Step("blueprint", "Prepare the blueprint on the host", moved.find_blueprint),
                Step("clone", "Copy the tenant", moved.clone),
                Step("stage", "Copy files and database to a new container", moved.stage),
                Step("upgrade", "Start Mautic in the new container", moved.upgrade),
                Step("judge", "Compare before and after", moved.judge),
                Step("clean", "Delete the copies", moved.clean),
            ),
            undo=moved.clean,
        )
    rehearsal = Rehearsal(
        run, inputs.found, inputs.version, lambda: archive_of(run, inputs.version), offer=inputs.offer
    )
    return Steps(
        (
            Step("clone", "Copy the tenant", rehearsal.clone),
            Step("stage", "Unpack the release in the copy", rehearsal.stage),
            Step("upgrade", "Upgrade the copy", rehearsal.upgrade),
            Step("judge", "Compare before and after", rehearsal.judge),
            Step("clean", "Delete the copy", rehearsal.clean),
        ),
        undo=rehearsal.clean,
    )
