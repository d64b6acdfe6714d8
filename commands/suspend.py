"""`/mautic suspend`: a tenant is closed, and sends nothing, until it is resumed."""

from __future__ import annotations

from bot import containment, outbound
from bot.labels import State, stamps
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, not_half_way, operation
from bot.steps import wait_for_address


@not_half_way
@operation
def suspend(context: Context, tenant: TenantArgument) -> Plan:
    """Close a tenant for a while: a polite page outside, no crons, no mails sent, its data untouched.

    It stays so over restarts, until `resume`. Its network is cut from outside, whether it agrees or not.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    if found.state == State.SUSPENDED and not context.operation:
        raise Refused(f"`{tenant}` is suspended already; `/mautic resume {tenant}` opens it.")
    if found.status != "Running" and not context.begun:
        raise Refused(f"`{tenant}` does not run; `/mautic start {tenant}` first.")

    def close() -> None:
        host.lxd.update(found.instance, stamps(state=State.SUSPENDED, suspended_by=context.operation))
        context.edge.apply()

    def quiet() -> str | None:
        return containment.close(host, found.instance)

    def undo() -> None:
        host.start(found.instance, urgent=True)
        containment.let_out(host, found.instance)
        outbound.settle_again(context, found)
        with containment.unless_it_says_no():
            host.mautic.open(found.instance)
        wait_for_address(host.lxd, found.instance)
        host.lxd.update(found.instance, stamps(state=State.LIVE))
        context.edge.apply()

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Suspend the tenant {tenant}",
        facts={
            "Address": f"{context.settings.edge.url(found.domain)} shows a polite page",
            "Stopped": "crons and mails",
        },
        values={"address": context.settings.edge.url(found.domain)},
        steps=(Step("close", "Close its page", close), Step("quiet", "Stop crons and workers", quiet)),
        reversible="can be undone with `resume`",
        seconds=3,
        undo=undo,
    )
