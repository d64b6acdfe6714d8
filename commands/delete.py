"""`/mautic delete`: archive a tenant, which is kept for the days of the policy."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.steps import refuse_another, wait_for_address
from bot.fleet import containment
from bot.lxd.protocol import NotFound
from bot.model.labels import Role, as_labels, label_of, role_of
from bot.model.plan import Plan, Refused, Step, Steps, always
from bot.model.tenants import Tenant
from bot.model.text import kept_for


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant


@not_half_way
@operation
def delete(context: Context, tenant: TenantArgument) -> Plan:
    """Delete a tenant: visitors see a maintenance page, and the data is archived for a while.

    The container is stopped, renamed and kept; `unarchive` brings the tenant back. The approver types its name.
    """
    found = _find(context, tenant)
    days = context.settings.retention.archive_days
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Delete tenant {tenant}",
        facts={
            "Address": context.settings.edge.url(found.domain),
            "Visitors see": "a maintenance page",
            "Data": f"archived {kept_for(days)}{', then deleted' if days else ''}",
        },
        values={"address": context.settings.edge.url(found.domain), "days": days},
        requires=(always(refuse_another, context, found),),
        inputs=Inputs(found),
        reversible="can be undone with `unarchive`",
        seconds=5,
    )


def _archived(tenant: str) -> str:
    """Return the name of an archived tenant's container."""
    return f"{tenant}--archived"


def _find(context: Context, tenant: str) -> Tenant:
    """Return the tenant; raise Refused where there is none, or the name of its archive is taken."""
    everything, archived = context.fleet.all(Role.TENANT, Role.ARCHIVED), _archived(tenant)
    if any(one.instance == archived for one in everything):
        raise Refused(
            f"There is already an archive of an earlier `{tenant}`. Delete that one permanently first: "
            f"`/mautic purge {tenant} {archived}`. The live `{tenant}` is not affected."
        )
    return context.fleet.tenant(tenant, [one for one in everything if one.role == Role.TENANT])


@steps_of(delete)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Close the page, stop the container, and rename it as an archive."""
    found, archived = inputs.found, _archived(inputs.found.name)
    host = run.fleet.of(found)

    def name_now() -> str:
        """Return the instance's name at this moment: before or after the renaming."""
        with suppress(NotFound):
            if label_of(host.lxd.instance(archived).config, "operation") == str(run.operation):
                return archived
        return found.instance

    def close() -> None:
        stamped = as_labels(role=Role.ARCHIVED, operation=run.operation, archived=int(run.now()))
        instance = host.lxd.instance(name_now())
        if role_of(instance.config) != Role.ARCHIVED:
            stopped = instance.config.get("boot.autostart") == "false"
            was = as_labels(was_running=instance.running, was_stopped=stopped, was_called=instance.name)
            host.lxd.update(instance.name, {**stamped, **was, "boot.autostart": "false"})
        run.edge.apply()

    def stop() -> str | None:
        if host.lxd.instance(name_now()).running:
            outbound.record(run, host, name_now())
        return containment.stop(host.lxd, name_now())

    def rename() -> None:
        if name_now() != archived:
            host.lxd.rename(found.instance, archived)

    def undo() -> None:
        """Bring the tenant back under its previous name, running or stopped as before."""
        instance = host.lxd.instance(name_now())
        if (label_of(instance.config, "role"), label_of(instance.config, "operation")) != (
            "archived",
            str(run.operation),
        ):
            return
        name = label_of(instance.config, "was-called")
        if instance.name != name:
            host.lxd.rename(instance.name, name)
        if label_of(instance.config, "was-running") == "1":
            outbound.start_again(run, replace(found, instance=name))
            wait_for_address(host.lxd, name)
        autostart = "false" if label_of(instance.config, "was-stopped") == "1" else "true"
        back = as_labels(role=Role.TENANT, archived="", was_running="", was_stopped="", was_called="")
        host.lxd.update(name, {**back, "boot.autostart": autostart})
        run.edge.apply()

    return Steps(
        (
            Step("close", "Show the maintenance page", close),
            Step("stop", "Stop the container", stop),
            Step("archive", "Archive the container", rename),
        ),
        undo=undo,
    )
