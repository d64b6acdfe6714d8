"""`/mautic stop`: a tenant's container is stopped until somebody starts it."""

from __future__ import annotations

from bot import containment, outbound
from bot.labels import stamp, stamps
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation


@operation
def stop(context: Context, tenant: TenantArgument) -> Plan:
    """Stop a tenant's container: its page closes, nothing is sent, and it stays so until `start`.

    One that does not end by itself within a minute is stopped by force.
    For a client that is to see a polite page for long, `suspend` is the better way.
    """
    found = context.fleet.tenant(tenant)
    lxd = context.fleet.of(found).lxd
    if found.status != "Running" and not context.operation:
        raise Refused(f"`{tenant}` does not run; `/mautic start {tenant}` starts it.")

    def halt() -> str | None:
        outbound.record(context, context.fleet.of(found), found.instance)
        # Not even a restart of the host is to start it.
        lxd.update(found.instance, {"boot.autostart": "false", **stamps(stopped_by=context.operation)})
        how = containment.stop(lxd, found.instance)
        context.edge.apply()
        return how

    def undo() -> None:
        if stamp(lxd.instance(found.instance).config, "stopped-by") == str(context.operation):
            lxd.update(found.instance, {"boot.autostart": "true"})
            outbound.start_again(context, found)

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Stop the tenant {tenant}",
        facts={"Address": f"{context.settings.edge.url(found.domain)} shows a polite page"},
        values={"address": context.settings.edge.url(found.domain)},
        steps=(Step("stop", "Stop the container", halt),),
        reversible="can be undone with `start`",
        seconds=3,
        undo=undo,
    )
