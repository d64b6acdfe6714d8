"""`/mautic resume`: reopen a suspended tenant."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.outbound import MailOption
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.engine.steps import PROBE, probing, see_login_page, wait_for_address
from bot.fleet import containment
from bot.model.labels import State, as_labels
from bot.model.plan import Plan, Step, Steps, always, once, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `mail`: what happens to waiting mail."""

    found: Tenant
    mail: MailOption


@operation
def resume(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Reopen a suspended tenant: its site, cron jobs and mail.

    `--mail` decides on mail that waited meanwhile: send, drop (kept in a table) or leave outbound mail off. Without
    `--mail`, outbound mail stays off if the tenant was suspended for over an hour and mail waits.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    suspended = found.state == State.SUSPENDED
    demand = None if found.status == "Running" else demand_of(context, found, host, found.instance)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Resume tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain)},
        requires=(
            require(suspended, f"`{tenant}` is not suspended; see `/mautic status {tenant}`."),
            once(lambda: outbound.remarks(outbound.counted(context, host, found.instance), mail)),
            *((always(admit, context, host, demand, f"`{tenant}` cannot be started on"),) if demand else ()),
        ),
        inputs=Inputs(found, mail),
        demand=demand.stored() if demand else None,
        choice=outbound.CHOICE,
        reversible="can be undone with `suspend`",
        seconds=3,
    )


@steps_of(resume)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Start the work inside first, then let clients in."""
    found = inputs.found
    host = run.fleet.of(found)

    def open_() -> str | None:
        host.start(found.instance)
        containment.reconnect(host, found.instance)
        # Before the tenant is opened, while no job runs inside.
        became = outbound.settle(run, host, found.instance, inputs.mail)
        host.mautic.open(found.instance)
        return became

    def route() -> None:
        wait_for_address(host.lxd, found.instance)
        # The tenant may have been stopped while it was suspended: now it runs, also after the next boot.
        host.lxd.update(found.instance, {**as_labels(state=State.LIVE), "boot.autostart": "true"})
        run.edge.apply()

    def undo() -> None:
        autostart = "false" if found.stopped else "true"
        host.lxd.update(found.instance, {**as_labels(state=State.SUSPENDED), "boot.autostart": autostart})
        containment.close(host, found.instance)
        run.edge.apply()

    return Steps(
        (
            Step("open", "Start cron jobs and mail workers", open_),
            Step("route", "Add the route", route),
            probing(lambda: see_login_page(run.edge, found.domain)),
        ),
        undo=undo,
        commit=PROBE,
    )
