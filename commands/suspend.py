"""`/mautic suspend`: closes a tenant, which sends nothing until it is resumed."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.steps import wait_for_address
from bot.fleet import containment
from bot.model.labels import State, as_labels
from bot.model.plan import Plan, Step, Steps, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant


@not_half_way
@operation
def suspend(context: Context, tenant: TenantArgument) -> Plan:
    """Suspend a tenant: show a maintenance page, stop cron jobs and mail, keep all data.

    The tenant stays suspended until `resume`, also across restarts. Its network is cut off from outside.
    """
    found = context.fleet.tenant(tenant)
    is_open = found.state != State.SUSPENDED
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Suspend tenant {tenant}",
        facts={
            "Address": context.settings.edge.url(found.domain),
            "Visitors see": "a maintenance page",
            "Stopped": "cron jobs and mail",
        },
        values={"address": context.settings.edge.url(found.domain)},
        requires=(
            require(is_open, f"`{tenant}` is already suspended; `/mautic resume {tenant}` reopens the site."),
            require(found.status == "Running", f"`{tenant}` is not running; `/mautic start {tenant}` first."),
        ),
        inputs=Inputs(found),
        reversible="can be undone with `resume`",
        seconds=3,
    )


@steps_of(suspend)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Close the site for visitors first, then stop the work inside."""
    found = inputs.found
    host = run.fleet.of(found)

    def close() -> None:
        host.lxd.update(found.instance, as_labels(state=State.SUSPENDED, suspended_by=run.operation))
        run.edge.apply()

    def quiet() -> str | None:
        return containment.close(host, found.instance)

    def undo() -> None:
        host.start(found.instance, urgent=True)
        containment.reconnect(host, found.instance)
        outbound.settle_again(run, found)
        with containment.ignoring_refusal():
            host.mautic.open(found.instance)
        wait_for_address(host.lxd, found.instance)
        host.lxd.update(found.instance, as_labels(state=State.LIVE))
        run.edge.apply()

    return Steps(
        (Step("close", "Show the maintenance page", close), Step("quiet", "Stop cron jobs and mail workers", quiet)),
        undo=undo,
    )
