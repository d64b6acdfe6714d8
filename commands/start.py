"""`/mautic start`: a tenant that was stopped runs again."""

from __future__ import annotations

from bot import containment, outbound
from bot.labels import Role, State, is_open, stamp, stamps
from bot.outbound import MailOption
from bot.placement import admit, demand_of
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.steps import PROBE, probing, refuse_full, see_login_page, wait_for_address
from bot.tenants import Tenant


@operation
def start(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Start a tenant that was stopped.

    Mail that waited meanwhile is sent, dropped (and kept in a table) or stays off with `--mail`; without it, what
    waited for more than an hour waits on.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    lxd, mautic = host.lxd, host.mautic
    # One that is suspended sends nothing before it is resumed.
    suspended = found.state == State.SUSPENDED
    # Left half way by a restore or move that no operation knows of any more: the database was lost.
    left = found.state == State.MOVING
    if left:
        _refuse_beside_an_heir(context, tenant)
    elif found.status == "Running" and not context.operation:
        raise Refused(f"`{tenant}` runs already; `/mautic status {tenant}` looks at it.")
    if not left:
        refuse_full(context, found)
    demand = demand_of(context, found, host, found.instance)
    remarks = admit(context, host, demand, f"`{tenant}` cannot be started on")

    def boot() -> str | None:
        if found.stopped:
            lxd.update(found.instance, {"boot.autostart": "true", **stamps(started_by=context.operation)})
        if suspended:
            host.start(found.instance)
            wait_for_address(lxd, found.instance)
            return None
        outbound.start(context, found)
        became = outbound.settle(context, host, found.instance, mail, unmute=not left)
        if left:
            mautic.unquiesce(found.instance)
        wait_for_address(lxd, found.instance)
        if left:
            lxd.update(found.instance, stamps(state=State.LIVE))
        return became

    def route() -> str:
        context.edge.apply()
        if found.state == State.SUSPENDED:
            return "it is still suspended"
        return see_login_page(context.edge, found.domain)

    def undo() -> None:
        """Stop again what had been stopped on purpose; one that had crashed may stay as far as it came."""
        if stamp(lxd.instance(found.instance).config, "started-by") == str(context.operation):
            lxd.update(found.instance, {"boot.autostart": "false"})
            containment.stop(lxd, found.instance)
        elif not left:
            outbound.unmute(context, found)

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Start the tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain)},
        commit=PROBE,
        remarks=remarks | ({} if suspended else outbound.remarks(context, lambda: _waits(context, found), mail)),
        demand=demand.stored(),
        choice=None if suspended else outbound.CHOICE,
        steps=(Step("start", "Start the container", boot), probing(route)),
        reversible="can be undone with `stop`",
        seconds=5,
        undo=undo,
    )


def _waits(context: Context, found: Tenant) -> str:
    """Say what mail waits, as far as it can be told of one that does not run."""
    return outbound.recorded(context, context.fleet.of(found).lxd.instance(found.instance).config)


def _refuse_beside_an_heir(context: Context, tenant: str) -> None:
    """Raise Refused where a container that was to take its place is open: clients may have written to it."""
    seen = context.fleet.look(Role.INCOMING)
    for one in seen.tenants:
        if one.name == tenant and is_open(one):
            raise Refused(
                f"`{one.instance}` on {one.host} serves in its place, since operation {one.operation} was cut off; "
                f"`/mautic purge {tenant} {one.instance}` first, if what was written to it is not wanted."
            )
    context.fleet.refuse_blindness(seen)
