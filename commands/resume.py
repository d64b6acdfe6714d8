"""`/mautic resume`: a suspended tenant is open again."""

from __future__ import annotations

from bot import containment, outbound
from bot.labels import State, stamps
from bot.outbound import MailOption
from bot.placement import admit, demand_of
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.steps import PROBE, probing, see_login_page, wait_for_address


@operation
def resume(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Open a suspended tenant again: its page, its crons and its mails.

    Mail that waited meanwhile is sent, dropped (and kept in a table) or stays off with `--mail`; without it, what
    waited for more than an hour waits on.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    if found.state != State.SUSPENDED and not context.operation:
        raise Refused(f"`{tenant}` is not suspended; `/mautic status {tenant}` looks at it.")
    demand, remarks = None, dict[str, str]()
    if found.status != "Running":
        demand = demand_of(context, found, host, found.instance)
        remarks = admit(context, host, demand, f"`{tenant}` cannot be started on")

    def open_() -> str | None:
        host.start(found.instance)
        containment.let_out(host, found.instance)
        # Before it is opened, while nothing works in it.
        became = outbound.settle(context, host, found.instance, mail)
        host.mautic.open(found.instance)
        return became

    def route() -> None:
        wait_for_address(host.lxd, found.instance)
        host.lxd.update(found.instance, stamps(state=State.LIVE))
        context.edge.apply()

    def undo() -> None:
        host.lxd.update(found.instance, stamps(state=State.SUSPENDED))
        containment.close(host, found.instance)
        context.edge.apply()

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Resume the tenant {tenant}",
        facts={"Address": f"{context.settings.edge.url(found.domain)} is open again"},
        values={"address": context.settings.edge.url(found.domain)},
        commit=PROBE,
        remarks=outbound.remarks(context, lambda: outbound.counted(context, host, found.instance), mail) | remarks,
        demand=demand.stored() if demand else None,
        choice=outbound.CHOICE,
        steps=(
            Step("open", "Start crons and workers", open_),
            Step("route", "Route its domain", route),
            probing(lambda: see_login_page(context.edge, found.domain)),
        ),
        reversible="can be undone with `suspend`",
        seconds=3,
        undo=undo,
    )
