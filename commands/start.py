"""`/mautic start`: a tenant that was stopped runs again."""

from __future__ import annotations

from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.steps import PROBE, see_login_page, wait_for_address
from bot.tenants import stamp, stamps


@operation
def start(context: Context, tenant: TenantArgument) -> Plan:
    """Start a tenant that was stopped."""
    found = context.fleet.tenant(tenant)
    lxd = context.fleet.of(found).lxd
    if found.status == "Running" and not context.operation:
        raise Refused(f"`{tenant}` runs already; `/mautic status {tenant}` looks at it.")

    def boot() -> None:
        if found.stopped:
            lxd.update(found.instance, {"boot.autostart": "true", **stamps(started_by=context.operation)})
        lxd.start(found.instance)
        wait_for_address(lxd, found.instance)

    def route() -> str:
        context.edge.apply()
        if found.state == "suspended":
            return "it is still suspended"
        return see_login_page(context.edge, found.domain)

    def undo() -> None:
        """Stop again what had been stopped on purpose; one that had crashed may stay as far as it came."""
        if stamp(lxd.instance(found.instance).config, "started-by") == str(context.operation):
            lxd.update(found.instance, {"boot.autostart": "false"})
            lxd.stop(found.instance, timeout=60)

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Start the tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        steps=(Step("Start the container", boot), Step(PROBE, route)),
        reversible="can be undone with `stop`",
        seconds=5,
        undo=undo,
    )
