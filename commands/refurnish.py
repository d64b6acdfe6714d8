"""`/mautic refurnish`: bring what the bot put into a tenant to this bot's version."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine.context import Context, Run
from bot.engine.registry import TenantsArgument, not_half_way, operation, steps_of
from bot.engine.selection import Selection, batch
from bot.engine.steps import PROBE, probing, refuse_another, refuse_full, see_login_page
from bot.guest.blueprint.furniture import furnish, is_behind, unfurnish
from bot.guest.blueprint.recipe import FURNITURE
from bot.model.labels import State
from bot.model.plan import Plan, Step, Steps, always, once, require
from bot.model.slots import slot_of
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant


@operation
@not_half_way
def refurnish(
    context: Context,
    tenant: TenantsArgument = "",
    *,
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
) -> Plan:
    """Bring the files that the bot put into a tenant up to date: cron jobs, services, configuration, its tool.

    The client's Mautic and data stay as they are, and the tenant stays online, except for up to three seconds while
    its database restarts.

    To update several tenants with one request, name them with commas between, or choose them with `--all`, `--host`,
    `--size` or `--tag`; tenants that are up to date or not running are left out.
    """
    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return _refurnish(context, tenant)
    return batch(context, "refurnish", selection, _refurnish, doing="Update the bot's files in", arguments={})


def _refurnish(context: Context, tenant: str) -> Plan:
    found = context.fleet.tenant(tenant)
    address = context.settings.edge.url(found.domain)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Update the bot's files in tenant {tenant}",
        facts={"Address": address},
        values={"address": address, "furniture": FURNITURE},
        remarks={"Files": _files(found)},
        requires=(
            require(
                is_behind(found), f"The bot's files in `{tenant}` are up to date (version {FURNITURE}); nothing to do."
            ),
            require(found.state != State.SUSPENDED, f"`{tenant}` is suspended; `/mautic resume {tenant}` first."),
            require(
                found.standing == "running",
                f"`{tenant}` is {found.standing}, and files are updated while it runs; `/mautic start {tenant}` first.",
            ),
            always(refuse_another, context, found),
            once(refuse_full, context, found),
        ),
        inputs=Inputs(found),
        reversible="no lasting change to Mautic or its data",
        seconds=15,
        host=found.host,
    )


def _files(found: Tenant) -> str:
    if found.furniture == FURNITURE:
        return f"version {FURNITURE}; its heavy jobs get a time of their own on the host"
    return f"version {found.furniture}, then {FURNITURE}"


@steps_of(refurnish)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Replace the files, have running services use them, and check the login page."""
    found = inputs.found
    host = run.fleet.of(found)

    def lay() -> str:
        slot = slot_of(run.operation) if found.slot is None else found.slot
        furnish(host.lxd, found.instance, run.settings.jobs.unconditional, slot)
        return f"version {found.furniture}, now {FURNITURE}"

    def undo() -> None:
        unfurnish(host.lxd, found.instance, found.furniture)

    return Steps(
        (
            Step("furnish", "Replace the bot's files", lay),
            probing(lambda: see_login_page(run.edge, found.domain)),
        ),
        undo=undo,
        commit=PROBE,
    )
