"""`/mautic delete`: archive a tenant; it is kept for the policy's days."""

from __future__ import annotations

from bot.lxd import NotFound
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.steps import wait_for_address
from bot.tenants import Tenant, stamp, stamps


@operation
def delete(context: Context, tenant: TenantArgument) -> Plan:
    """Take a tenant away: its page closes at once, and its data is kept for a while.

    It is stopped, renamed and kept; `unarchive` brings it back. The approver types its name.
    """
    archived = archive_name(tenant)
    found = _find(context, tenant, archived)
    days = context.settings.retention.archive_days

    def name_now() -> str:
        """The instance's name at this moment: before or after the renaming."""
        try:
            return context.lxd.instance(tenant).name
        except NotFound:
            return context.lxd.instance(archived).name

    def close() -> None:
        stamped = stamps(role="archived", operation=context.operation, archived=int(context.now()))
        instance = context.lxd.instance(name_now())
        if stamp(instance.config, "role") != "archived":
            was_running = stamps(was_running=instance.running)
            context.lxd.update(instance.name, {**stamped, **was_running, "boot.autostart": "false"})
        context.edge.apply()

    def stop() -> None:
        context.lxd.stop(name_now(), timeout=60)

    def rename() -> None:
        if name_now() == tenant:
            context.lxd.rename(tenant, archived)

    def undo() -> None:
        """Put it back where it was, and open."""
        instance = context.lxd.instance(name_now())
        if (stamp(instance.config, "role"), stamp(instance.config, "operation")) != (
            "archived",
            str(context.operation),
        ):
            return
        if instance.name == archived:
            context.lxd.rename(archived, tenant)
        if stamp(instance.config, "was-running") == "1":
            context.lxd.start(tenant)
            wait_for_address(context.lxd, tenant)
        context.lxd.update(tenant, {**stamps(role="tenant", archived="", was_running=""), "boot.autostart": "true"})
        context.edge.apply()

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Delete the tenant {tenant}",
        facts={
            "Address": f"{context.settings.edge.url(found.domain)} stops answering",
            "Kept": f"for {days} days as an archive, with all its data",
        },
        steps=(
            Step("Close its page", close),
            Step("Stop the container", stop),
            Step("Put it into the archive", rename),
        ),
        reversible="can be undone with `unarchive`",
        seconds=5,
        undo=undo,
    )


def archive_name(tenant: str) -> str:
    """Return the name of an archived tenant's instance: two hyphens, which no tenant's own name has."""
    return f"{tenant}--archived"


def _find(context: Context, tenant: str, archived: str) -> Tenant:
    everything = context.fleet.all("tenant", "archived")
    for one in everything:
        if one.name == tenant and context.operation and one.operation == str(context.operation):
            return one
    if any(one.instance == archived for one in everything):
        raise Refused(f"An archived `{tenant}` stands in the way; it has to go, or come back, first.")
    return context.fleet.tenant(tenant, [one for one in everything if one.role == "tenant"])
