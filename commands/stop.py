"""`/mautic stop`: a tenant's container is stopped until somebody starts it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.fleet import containment
from bot.model.labels import stamp, stamps
from bot.model.plan import Plan, Step, Steps, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant


@operation
def stop(context: Context, tenant: TenantArgument) -> Plan:
    """Stop a tenant's container: its page closes, nothing is sent, and it stays so until `start`.

    One that does not end by itself within a minute is stopped by force.
    For a client that is to see a polite page for long, `suspend` is the better way.
    """
    found = context.fleet.tenant(tenant)
    runs = found.status == "Running"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary=f"Stop the tenant {tenant}",
        facts={"Address": f"{context.settings.edge.url(found.domain)} shows a polite page"},
        values={"address": context.settings.edge.url(found.domain)},
        # One that stopped by itself since then is to stay so.
        requires=(require(runs, f"`{tenant}` does not run; `/mautic start {tenant}` starts it.", again=False),),
        inputs=Inputs(found),
        reversible="can be undone with `start`",
        seconds=3,
    )


@steps_of(stop)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Stop it, so that nothing starts it."""
    found = inputs.found
    host = run.fleet.of(found)

    def halt() -> str | None:
        outbound.record(run, host, found.instance)
        # Not even a restart of the host is to start it.
        host.lxd.update(found.instance, {"boot.autostart": "false", **stamps(stopped_by=run.operation)})
        how = containment.stop(host.lxd, found.instance)
        run.edge.apply()
        return how

    def undo() -> None:
        if stamp(host.lxd.instance(found.instance).config, "stopped-by") == str(run.operation):
            host.lxd.update(found.instance, {"boot.autostart": "true"})
            outbound.start_again(run, found)

    return Steps((Step("stop", "Stop the container", halt),), undo=undo)
