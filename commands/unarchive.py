"""`/mautic unarchive`: bring a deleted tenant back."""

from __future__ import annotations

from dataclasses import replace

from bot import containment, outbound
from bot.fleet import only
from bot.labels import Role, State, role_of, stamp, stamps
from bot.lxd import NotFound
from bot.outbound import MailOption
from bot.placement import admit, demand_of
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.steps import PROBE, probing, refuse_another, see_login_page, wait_for_address


@operation
def unarchive(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Bring a deleted tenant back, as it was, while its archive is still kept.

    One that had been stopped stays so until `start`. Mail that waited meanwhile is sent, dropped (and kept in a table)
    or stays off with `--mail`, or as the approver chooses; without a choice, what waited for long waits on.
    """
    everything = context.fleet.all(Role.TENANT, Role.ARCHIVED)
    ours = [one for one in everything if one.name == tenant and one.operation == str(context.operation or "-")]
    if not ours:
        if any(one.name == tenant and one.role == Role.TENANT for one in everything):
            raise Refused(f"`{tenant}` is not archived; `/mautic status {tenant}` looks at it.")
        ours = [one for one in everything if one.name == tenant]
    if not ours:
        raise Refused(f"There is no archived `{tenant}`; `/mautic list --archived` shows what is kept.")
    found = only(ours)
    refuse_another(context, found)
    for other in everything:
        if other.role == Role.TENANT and other.domain == found.domain and other.name != tenant:
            raise Refused(f"Its domain `{found.domain}` is now `{other.name}`'s.")
    archived = f"{tenant}--archived"
    host = context.fleet.of(found)
    lxd = host.lxd
    was = lxd.instance(found.instance).config
    # As it was called: another container of the tenant's may have its own name.
    name = stamp(was, "was-called") or tenant
    stopped = stamp(was, "was-stopped") == "1"
    host = context.fleet.of(found)
    demand = demand_of(context, found, host, name, tenants=1)
    if stopped:
        demand = replace(demand, memory=0, plan=0)
    room = admit(context, host, demand, f"`{tenant}` cannot be brought back on")

    def rename() -> None:
        if found.instance != name:
            lxd.rename(archived, name)

    def start() -> str | None:
        if stopped:
            return "it had been stopped"
        if found.state == State.SUSPENDED:
            host.start(name)
            wait_for_address(lxd, name)
            return None
        outbound.start(context, replace(found, instance=name))
        became = outbound.settle(context, host, name, mail, unmute=True)
        wait_for_address(lxd, name)
        return became

    def route() -> None:
        instance = lxd.instance(name)
        if role_of(instance.config) != Role.TENANT:
            stamped = stamps(role=Role.TENANT, archived="", operation=context.operation)
            lxd.update(name, {**stamped, "boot.autostart": "false" if stopped else "true"})
        context.edge.apply()

    def probe() -> str:
        if stopped:
            return "it is still stopped"
        if found.state == State.SUSPENDED:
            return "it is still suspended"
        return see_login_page(context.edge, found.domain)

    def undo() -> None:
        """Put it back into the archive."""
        try:
            instance = lxd.instance(name)
        except NotFound:
            return
        if role_of(instance.config) != Role.ARCHIVED:
            if stamp(instance.config, "operation") != str(context.operation):
                return
            stamped = stamps(role=Role.ARCHIVED, archived=int(context.now()))
            lxd.update(name, {**stamped, "boot.autostart": "false"})
        context.edge.apply()
        containment.stop(lxd, name)
        lxd.rename(name, archived)

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Bring the tenant {tenant} back",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain)},
        commit=PROBE,
        remarks={"Stays": f"stopped, as it was; `/mautic start {tenant}` starts it"}
        if stopped
        else room
        if found.state == State.SUSPENDED
        else outbound.remarks(context, lambda: outbound.recorded(context, was), mail) | room,
        demand=demand.stored(),
        choice=None if stopped or found.state == State.SUSPENDED else outbound.CHOICE,
        steps=(
            Step("unarchive", "Take it out of the archive", rename),
            Step("start", "Start the container", start),
            Step("route", "Route its domain", route),
            probing(probe),
        ),
        reversible="can be undone with `delete`",
        seconds=15,
        undo=undo,
    )
