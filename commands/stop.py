"""`/mautic stop`: stop a tenant until somebody starts it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.fleet import containment
from bot.model.labels import as_labels, label_of
from bot.model.plan import Plan, Step, Steps, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant


@operation
def stop(context: Context, tenant: TenantArgument) -> Plan:
    """Stop a tenant: visitors see a maintenance page and no mail is sent, until `start`.

    A container that does not shut down within a minute is stopped by force. To close a client's site for long, use
    `suspend` instead.
    """
    found = context.fleet.tenant(tenant)
    runs = found.status == "Running"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Stop tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain), "Visitors see": "a maintenance page"},
        values={"address": context.settings.edge.url(found.domain)},
        # Not checked again: a tenant that stopped since the request is kept stopped.
        requires=(
            require(
                runs,
                f"`{tenant}` is not running, so there is nothing to stop; see `/mautic status {tenant}`.",
                again=False,
            ),
        ),
        inputs=Inputs(found),
        reversible="can be undone with `start`",
        seconds=3,
    )


@steps_of(stop)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Stop the container, and keep LXD from starting it."""
    found = inputs.found
    host = run.fleet.of(found)

    def halt() -> str | None:
        outbound.record(run, host, found.instance)
        # Not even a restart of the host may start the tenant.
        host.lxd.update(found.instance, {"boot.autostart": "false", **as_labels(stopped_by=run.operation)})
        how = containment.stop(host.lxd, found.instance)
        run.edge.apply()
        return how

    def undo() -> None:
        if label_of(host.lxd.instance(found.instance).config, "stopped-by") == str(run.operation):
            host.lxd.update(found.instance, {"boot.autostart": "true"})
            outbound.start_again(run, found)

    return Steps((Step("stop", "Stop the container", halt),), undo=undo)
