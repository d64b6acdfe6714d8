"""`/mautic unarchive`: bring a deleted tenant back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.outbound import MailOption
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.engine.steps import PROBE, probing, refuse_another, see_login_page, wait_for_address
from bot.fleet import containment
from bot.fleet.inventory import only
from bot.lxd.protocol import NotFound
from bot.model.labels import Role, State, role_of, stamp, stamps
from bot.model.plan import Plan, Refused, Step, Steps, always, once
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """`name`: what its container is called again. `stopped`: it had been, and stays so. `mail`: of what waits."""

    found: Tenant
    name: str
    stopped: bool
    mail: MailOption


@operation
def unarchive(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Bring a deleted tenant back, as it was, while its archive is still kept.

    One that had been stopped stays so until `start`. Mail that waited meanwhile is sent, dropped (and kept in a table)
    or stays off with `--mail`, or as the approver chooses; without a choice, what waited for long waits on.
    """
    everything = context.fleet.all(Role.TENANT, Role.ARCHIVED)
    found = _find(tenant, everything)
    host = context.fleet.of(found)
    was = host.lxd.instance(found.instance).config
    # As it was called: another container of the tenant's may have its own name.
    name = stamp(was, "was-called") or tenant
    stopped = stamp(was, "was-stopped") == "1"
    demand = demand_of(context, found, host, name, tenants=1)
    if stopped:
        demand = replace(demand, memory=0, plan=0)

    def room() -> dict[str, str]:
        told = admit(context, host, demand, f"`{tenant}` cannot be brought back on")
        return {} if stopped else told

    rests = stopped or found.state == State.SUSPENDED
    mail_waits = () if rests else (once(lambda: outbound.remarks(outbound.recorded(context, was), mail)),)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Bring the tenant {tenant} back",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain)},
        requires=(
            always(refuse_another, context, found),
            always(_refuse_taken, found, everything),
            *mail_waits,
            always(room),
        ),
        remarks={"Stays": f"stopped, as it was; `/mautic start {tenant}` starts it"} if stopped else {},
        inputs=Inputs(found, name, stopped, mail),
        demand=demand.stored(),
        choice=outbound.CHOICE if mail_waits else None,
        reversible="can be undone with `delete`",
        seconds=15,
    )


def _find(tenant: str, everything: list[Tenant]) -> Tenant:
    """Return the archive of a tenant, or refuse."""
    its = [one for one in everything if one.name == tenant]
    if any(one.role == Role.TENANT for one in its):
        raise Refused(f"`{tenant}` is not archived; `/mautic status {tenant}` looks at it.")
    if not its:
        raise Refused(f"There is no archived `{tenant}`; `/mautic list --archived` shows what is kept.")
    return only(its)


def _refuse_taken(found: Tenant, everything: list[Tenant]) -> None:
    for other in everything:
        if other.role == Role.TENANT and other.domain == found.domain and other.name != found.name:
            raise Refused(f"Its domain `{found.domain}` is now `{other.name}`'s.")


@steps_of(unarchive)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Call it as before, start it, and route to it."""
    found, name, archived = inputs.found, inputs.name, f"{inputs.found.name}--archived"
    host = run.fleet.of(found)

    def rename() -> None:
        if found.instance != name:
            # It may be called so already.
            with suppress(NotFound):
                host.lxd.rename(found.instance, name)

    def start() -> str | None:
        if inputs.stopped:
            return "it had been stopped"
        if found.state == State.SUSPENDED:
            host.start(name)
            wait_for_address(host.lxd, name)
            return None
        outbound.start(run, replace(found, instance=name))
        became = outbound.settle(run, host, name, inputs.mail, unmute=True)
        wait_for_address(host.lxd, name)
        return became

    def route() -> None:
        instance = host.lxd.instance(name)
        if role_of(instance.config) != Role.TENANT:
            stamped = stamps(role=Role.TENANT, archived="", operation=run.operation)
            host.lxd.update(name, {**stamped, "boot.autostart": "false" if inputs.stopped else "true"})
        run.edge.apply()

    def probe() -> str:
        if inputs.stopped:
            return "it is still stopped"
        if found.state == State.SUSPENDED:
            return "it is still suspended"
        return see_login_page(run.edge, found.domain)

    def undo() -> None:
        """Put it back into the archive."""
        try:
            instance = host.lxd.instance(name)
        except NotFound:
            return
        if role_of(instance.config) != Role.ARCHIVED:
            if stamp(instance.config, "operation") != str(run.operation):
                return
            stamped = stamps(role=Role.ARCHIVED, archived=int(run.now()))
            host.lxd.update(name, {**stamped, "boot.autostart": "false"})
        run.edge.apply()
        containment.stop(host.lxd, name)
        host.lxd.rename(name, archived)

    return Steps(
        (
            Step("unarchive", "Take it out of the archive", rename),
            Step("start", "Start the container", start),
            Step("route", "Route its domain", route),
            probing(probe),
        ),
        undo=undo,
        commit=PROBE,
    )
