"""`/mautic suspend`: a tenant is closed, and sends nothing, until it is resumed."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.steps import wait_for_address
from bot.fleet import containment
from bot.model.labels import State, stamps
from bot.model.plan import Plan, Step, Steps, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant


@not_half_way
@operation
def suspend(context: Context, tenant: TenantArgument) -> Plan:
    """Close a tenant for a while: a polite page outside, no crons, no mails sent, its data untouched.

    It stays so over restarts, until `resume`. Its network is cut from outside, whether it agrees or not.
    """
    found = context.fleet.tenant(tenant)
    is_open = found.state != State.SUSPENDED
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Suspend the tenant {tenant}",
        facts={
            "Address": f"{context.settings.edge.url(found.domain)} shows a polite page",
            "Stopped": "crons and mails",
        },
        values={"address": context.settings.edge.url(found.domain)},
        requires=(
            require(is_open, f"`{tenant}` is suspended already; `/mautic resume {tenant}` opens it."),
            require(found.status == "Running", f"`{tenant}` does not run; `/mautic start {tenant}` first."),
        ),
        inputs=Inputs(found),
        reversible="can be undone with `resume`",
        seconds=3,
    )


@steps_of(suspend)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Close it first for those who come, then for what works in it."""
    found = inputs.found
    host = run.fleet.of(found)

    def close() -> None:
        host.lxd.update(found.instance, stamps(state=State.SUSPENDED, suspended_by=run.operation))
        run.edge.apply()

    def quiet() -> str | None:
        return containment.close(host, found.instance)

    def undo() -> None:
        host.start(found.instance, urgent=True)
        containment.let_out(host, found.instance)
        outbound.settle_again(run, found)
        with containment.unless_it_says_no():
            host.mautic.open(found.instance)
        wait_for_address(host.lxd, found.instance)
        host.lxd.update(found.instance, stamps(state=State.LIVE))
        run.edge.apply()

    return Steps((Step("close", "Close its page", close), Step("quiet", "Stop crons and workers", quiet)), undo=undo)
