"""`/mautic rehearse`: try an upgrade on a copy of a tenant."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine.context import Context, Run
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantsArgument, not_half_way, operation, steps_of
from bot.engine.rehearsal import Rehearsal
from bot.engine.selection import Selection, batch
from bot.engine.steps import refuse_full
from bot.engine.upgrades import archive_of, target
from bot.model.plan import Plan, Step, Steps, always, once, require
from bot.model.tenants import Tenant, candidate_name


@dataclass(frozen=True)
class Inputs:
    """The tenant, the version that its copy gets, and whether the upgrade is requested when that has passed."""

    found: Tenant
    version: str
    offer: bool


@not_half_way
@operation
def rehearse(
    context: Context,
    tenant: TenantsArgument = "",
    version: str = "",
    *,
    offer: bool = False,
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
) -> Plan:
    """Try an upgrade on a copy of a tenant: how long it takes, what it changes, and what would break.

    The copy is closed, has no network, and is deleted afterwards; the tenant itself is not touched. Without a version
    it is the newest release that the tenant can be upgraded to. With `--offer` the upgrade is requested when the
    rehearsal has passed. To rehearse several, name them with commas between, or choose them with `--all`, `--host`,
    `--size` or `--tag`.
    """
    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return rehearsal_of(context, tenant, version, offer=offer)
    return batch(
        context,
        "rehearse",
        selection,
        lambda context, name: rehearsal_of(context, name, version, offer=False),
        doing="Rehearse the upgrade of",
        arguments={"version": version},
    )


def rehearsal_of(context: Context, tenant: str, version: str, *, offer: bool) -> Plan:
    """Return the plan of the rehearsal of one tenant."""
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    release = target(context, found, version)
    demand = demand_of(context, found, host, candidate_name(tenant, context.operation), beside=True)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "version": release.version, "offer": offer},
        summary=f"Rehearse the upgrade of tenant {tenant} to Mautic {release.version}",
        facts={"From": found.version, "To": release.version, "Touches": "a copy only, which is deleted afterwards"},
        values={"from": found.version, "to": release.version},
        requires=(
            require(
                found.standing == "running",
                f"`{tenant}` is {found.standing}, and only a running tenant can be rehearsed.",
            ),
            once(refuse_full, context, found),
            always(admit, context, host, demand, f"A copy of `{tenant}` cannot start on"),
        ),
        inputs=Inputs(found, release.version, offer),
        demand=demand.stored(),
        reversible="changes nothing",
        seconds=60,
        host=found.host,
    )


@steps_of(rehearse)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Copy the tenant, upgrade the copy as the tenant would be, compare, and delete the copy."""
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
