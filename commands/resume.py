"""`/mautic resume`: a suspended tenant is open again."""

from __future__ import annotations

from bot.placement import admit, demand_of
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.steps import PROBE, see_login_page, wait_for_address
from bot.tenants import stamps


@operation
def resume(context: Context, tenant: TenantArgument) -> Plan:
    """Open a suspended tenant again: its page, its crons and its mails."""
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    if found.state != "suspended" and not context.operation:
        raise Refused(f"`{tenant}` is not suspended; `/mautic status {tenant}` looks at it.")
    demand, remarks = None, dict[str, str]()
    if found.status != "Running":
        demand = demand_of(context, found, host, found.instance)
        remarks = admit(context, host, demand, f"`{tenant}` cannot be started on")

    def open_() -> None:
        host.start(found.instance)
        host.mautic.open(found.instance)

    def route() -> None:
        wait_for_address(host.lxd, found.instance)
        host.lxd.update(found.instance, stamps(state="live"))
        context.edge.apply()

    def undo() -> None:
        host.lxd.update(found.instance, stamps(state="suspended"))
        host.mautic.close(found.instance, "suspend")
        context.edge.apply()

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Resume the tenant {tenant}",
        facts={"Address": f"{context.settings.edge.url(found.domain)} is open again"},
        remarks=remarks,
        demand=demand.stored() if demand else None,
        steps=(
            Step("Start crons and workers", open_),
            Step("Route its domain", route),
            Step(PROBE, lambda: see_login_page(context.edge, found.domain)),
        ),
        reversible="can be undone with `suspend`",
        seconds=3,
        undo=undo,
    )
