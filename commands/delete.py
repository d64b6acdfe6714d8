"""`/mautic delete`: archive a tenant; it is kept for the policy's days."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from bot import containment, outbound
from bot.labels import Role, role_of, stamp, stamps
from bot.lxd import NotFound
from bot.messages import kept_for
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, not_half_way, operation
from bot.steps import refuse_another, wait_for_address
from bot.tenants import Tenant


@not_half_way
@operation
def delete(context: Context, tenant: TenantArgument) -> Plan:
    """Take a tenant away: its page closes at once, and its data is kept for a while.

    It is stopped, renamed and kept; `unarchive` brings it back. The approver types its name.
    """
    archived = f"{tenant}--archived"
    found = _find(context, tenant, archived)
    refuse_another(context, found)
    lxd = context.fleet.of(found).lxd
    days = context.settings.retention.archive_days

    def name_now() -> str:
        """The instance's name at this moment: before or after the renaming."""
        with suppress(NotFound):
            if stamp(lxd.instance(archived).config, "operation") == str(context.operation):
                return archived
        return found.instance

    def close() -> None:
        stamped = stamps(role=Role.ARCHIVED, operation=context.operation, archived=int(context.now()))
        instance = lxd.instance(name_now())
        if role_of(instance.config) != Role.ARCHIVED:
            stopped = instance.config.get("boot.autostart") == "false"
            was = stamps(was_running=instance.running, was_stopped=stopped, was_called=instance.name)
            lxd.update(instance.name, {**stamped, **was, "boot.autostart": "false"})
        context.edge.apply()

    def stop() -> str | None:
        if lxd.instance(name_now()).running:
            outbound.record(context, context.fleet.of(found), name_now())
        return containment.stop(lxd, name_now())

    def rename() -> None:
        if name_now() != archived:
            lxd.rename(found.instance, archived)

    def undo() -> None:
        """Put it back where it was, and as it was."""
        instance = lxd.instance(name_now())
        if (stamp(instance.config, "role"), stamp(instance.config, "operation")) != (
            "archived",
            str(context.operation),
        ):
            return
        name = stamp(instance.config, "was-called")
        if instance.name != name:
            lxd.rename(instance.name, name)
        if stamp(instance.config, "was-running") == "1":
            outbound.start_again(context, replace(found, instance=name))
            wait_for_address(lxd, name)
        autostart = "false" if stamp(instance.config, "was-stopped") == "1" else "true"
        back = stamps(role=Role.TENANT, archived="", was_running="", was_stopped="", was_called="")
        lxd.update(name, {**back, "boot.autostart": autostart})
        context.edge.apply()

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Delete the tenant {tenant}",
        facts={
            "Address": f"{context.settings.edge.url(found.domain)} shows a polite page for as long as it is kept",
            "Kept": f"{kept_for(days)} as an archive, with all its data",
        },
        values={"address": context.settings.edge.url(found.domain), "days": days},
        steps=(
            Step("close", "Close its page", close),
            Step("stop", "Stop the container", stop),
            Step("archive", "Put it into the archive", rename),
        ),
        reversible="can be undone with `unarchive`",
        seconds=5,
        undo=undo,
    )


def _find(context: Context, tenant: str, archived: str) -> Tenant:
    everything = context.fleet.all(Role.TENANT, Role.ARCHIVED)
    for one in everything:
        if one.name == tenant and context.operation and one.operation == str(context.operation):
            return one
    if any(one.instance == archived for one in everything):
        raise Refused(
            f"The archive of an earlier `{tenant}` is still kept, as `{archived}`, and a tenant has one archive only. "
            f"`/mautic purge {tenant} {archived}` removes that one for good; the live `{tenant}` is not affected."
        )
    return context.fleet.tenant(tenant, [one for one in everything if one.role == Role.TENANT])
