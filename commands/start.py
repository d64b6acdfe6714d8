"""`/mautic start`: start a stopped tenant."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.outbound import MailOption
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.engine.steps import PROBE, probing, refuse_full, see_login_page, wait_for_address
from bot.fleet import containment
from bot.model.labels import Role, State, as_labels, is_open, label_of
from bot.model.plan import Plan, Precondition, Refused, Step, Steps, always, once, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `mail`: what happens to waiting mail."""

    found: Tenant
    mail: MailOption


@operation
def start(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Start a stopped tenant.

    `--mail` decides on mail that waited meanwhile: send, drop (kept in a table) or leave outbound mail off. Without
    `--mail`, outbound mail stays off if the tenant was stopped for over an hour and mail waits.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    suspended = found.state == State.SUSPENDED
    fit: tuple[Precondition, ...]
    if _was_left(found):
        fit = (always(_refuse_beside_a_candidate, context, tenant),)
    else:
        # If the tenant has started since the request, its login page is still checked.
        runs = f"`{tenant}` is already running; see `/mautic status {tenant}`."
        fit = (require(found.status != "Running", runs, again=False), once(refuse_full, context, found))
    waits = () if suspended else (once(lambda: outbound.remarks(_waits(context, found), mail)),)
    demand = demand_of(context, found, host, found.instance)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Start tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain)},
        requires=(*fit, always(admit, context, host, demand, f"`{tenant}` cannot be started on"), *waits),
        inputs=Inputs(found, mail),
        demand=demand.stored(),
        choice=None if suspended else outbound.CHOICE,
        reversible="can be undone with `stop`",
        seconds=5,
    )


def _was_left(found: Tenant) -> bool:
    """Return whether a cutover left the tenant half-way that the database does not know, as after its loss."""
    return found.state == State.MOVING


def _waits(context: Context, found: Tenant) -> str:
    """Return how much mail waits, as far as that is known of a stopped tenant."""
    return outbound.recorded(context, context.fleet.of(found).lxd.instance(found.instance).config)


def _refuse_beside_a_candidate(context: Context, tenant: str) -> None:
    """Raise Refused where the candidate of a cutover is open: clients may have written to it."""
    seen = context.fleet.inventory(Role.INCOMING)
    for one in seen.tenants:
        if one.name == tenant and is_open(one):
            raise Refused(
                f"`{one.instance}` on {one.host} serves `{tenant}`, since request #{one.operation} was interrupted. If "
                f"the data written there is not needed, first `/mautic purge {tenant} {one.instance}`."
            )
    context.fleet.require_all_answered(seen)


@steps_of(start)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Start the tenant, settle its mail before anything runs inside, and check the login page."""
    found, left = inputs.found, _was_left(inputs.found)
    host = run.fleet.of(found)

    def boot() -> str | None:
        if found.stopped:
            host.lxd.update(found.instance, {"boot.autostart": "true", **as_labels(started_by=run.operation)})
        if found.state == State.SUSPENDED:
            # A suspended tenant sends nothing before it is resumed.
            host.start(found.instance)
            wait_for_address(host.lxd, found.instance)
            return None
        outbound.start(run, found)
        became = outbound.settle(run, host, found.instance, inputs.mail, unmute=not left)
        if left:
            host.mautic.unquiesce(found.instance)
        wait_for_address(host.lxd, found.instance)
        if left:
            host.lxd.update(found.instance, as_labels(state=State.LIVE))
        return became

    def route() -> str:
        run.edge.apply()
        if found.state == State.SUSPENDED:
            return "still suspended"
        return see_login_page(run.edge, found.domain)

    def undo() -> None:
        """Stop a tenant again that was stopped on purpose; one that had crashed stays as it is."""
        if label_of(host.lxd.instance(found.instance).config, "started-by") == str(run.operation):
            host.lxd.update(found.instance, {"boot.autostart": "false"})
            containment.stop(host.lxd, found.instance)
        elif not left:
            outbound.unmute(run, found)

    return Steps((Step("start", "Start the container", boot), probing(route)), undo=undo, commit=PROBE)
