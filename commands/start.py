"""`/mautic start`: a tenant that was stopped runs again."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.outbound import MailOption
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.engine.steps import PROBE, probing, refuse_full, see_login_page, wait_for_address
from bot.fleet import containment
from bot.model.labels import Role, State, is_open, stamp, stamps
from bot.model.plan import Plan, Precondition, Refused, Step, Steps, always, once, require
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """`mail`: what becomes of the mail that waits."""

    found: Tenant
    mail: MailOption


@operation
def start(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Start a tenant that was stopped.

    Mail that waited meanwhile is sent, dropped (and kept in a table) or stays off with `--mail`; without it, what
    waited for more than an hour waits on.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    suspended = found.state == State.SUSPENDED
    fit: tuple[Precondition, ...]
    if _was_left(found):
        fit = (always(_refuse_beside_a_candidate, context, tenant),)
    else:
        # One that came up by itself since then is still to be seen to serve.
        runs = f"`{tenant}` runs already; `/mautic status {tenant}` looks at it."
        fit = (require(found.status != "Running", runs, again=False), once(refuse_full, context, found))
    waits = () if suspended else (once(lambda: outbound.remarks(_waits(context, found), mail)),)
    demand = demand_of(context, found, host, found.instance)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Start the tenant {tenant}",
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
    """Whether a restore or move left it half way of which no operation knows any more: the database was lost."""
    return found.state == State.MOVING


def _waits(context: Context, found: Tenant) -> str:
    """Say what mail waits, as far as it can be told of one that does not run."""
    return outbound.recorded(context, context.fleet.of(found).lxd.instance(found.instance).config)


def _refuse_beside_a_candidate(context: Context, tenant: str) -> None:
    """Raise Refused where a container that was to take its place is open: clients may have written to it."""
    seen = context.fleet.look(Role.INCOMING)
    for one in seen.tenants:
        if one.name == tenant and is_open(one):
            raise Refused(
                f"`{one.instance}` on {one.host} serves in its place, since operation {one.operation} was cut off; "
                f"`/mautic purge {tenant} {one.instance}` first, if what was written to it is not wanted."
            )
    context.fleet.refuse_blindness(seen)


@steps_of(start)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Start it, settle its mail before anything works in it, and see its page."""
    found, left = inputs.found, _was_left(inputs.found)
    host = run.fleet.of(found)

    def boot() -> str | None:
        if found.stopped:
            host.lxd.update(found.instance, {"boot.autostart": "true", **stamps(started_by=run.operation)})
        if found.state == State.SUSPENDED:
            # It sends nothing before it is resumed.
            host.start(found.instance)
            wait_for_address(host.lxd, found.instance)
            return None
        outbound.start(run, found)
        became = outbound.settle(run, host, found.instance, inputs.mail, unmute=not left)
        if left:
            host.mautic.unquiesce(found.instance)
        wait_for_address(host.lxd, found.instance)
        if left:
            host.lxd.update(found.instance, stamps(state=State.LIVE))
        return became

    def route() -> str:
        run.edge.apply()
        if found.state == State.SUSPENDED:
            return "it is still suspended"
        return see_login_page(run.edge, found.domain)

    def undo() -> None:
        """Stop again what had been stopped on purpose; one that had crashed may stay as far as it came."""
        if stamp(host.lxd.instance(found.instance).config, "started-by") == str(run.operation):
            host.lxd.update(found.instance, {"boot.autostart": "false"})
            containment.stop(host.lxd, found.instance)
        elif not left:
            outbound.unmute(run, found)

    return Steps((Step("start", "Start the container", boot), probing(route)), undo=undo, commit=PROBE)
