"""`/mautic unarchive`: bring back a deleted tenant."""

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
from bot.model.labels import Role, State, as_labels, label_of, role_of
from bot.model.plan import Plan, Refused, Step, Steps, always, once
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `name`: of the container from now on.

    `stopped`: the tenant was stopped before the delete, and stays so. `mail`: what happens to waiting mail.
    """

    found: Tenant
    name: str
    stopped: bool
    mail: MailOption


@operation
def unarchive(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Bring back a deleted tenant while its archive is kept.

    A tenant that was stopped before the delete stays stopped until `start`. `--mail` proposes to the approver what
    happens to mail that waited meanwhile: send, drop (kept in a table) or leave outbound mail off. Without a choice,
    outbound mail stays off if mail waits.
    """
    everything = context.fleet.all(Role.TENANT, Role.ARCHIVED)
    found = _find(tenant, everything)
    host = context.fleet.of(found)
    was = host.lxd.instance(found.instance).config
    # The container's previous name: another container of the tenant may have the name of the tenant.
    name = label_of(was, "was-called") or tenant
    stopped = label_of(was, "was-stopped") == "1"
    demand = demand_of(context, found, host, name, tenants=1)
    if stopped:
        demand = replace(demand, memory=0, plan=0)

    def free_space() -> dict[str, str]:
        told = admit(context, host, demand, f"`{tenant}` cannot be brought back on")
        return {} if stopped else told

    rests = stopped or found.state == State.SUSPENDED
    mail_waits = () if rests else (once(lambda: outbound.remarks(outbound.recorded(context, was), mail)),)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Bring back tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain)},
        requires=(
            always(refuse_another, context, found),
            always(_refuse_taken, found, everything),
            *mail_waits,
            always(free_space),
        ),
        remarks={"Stays stopped": f"/mautic start {tenant} starts the tenant"} if stopped else {},
        inputs=Inputs(found, name, stopped, mail),
        demand=demand.stored(),
        choice=outbound.CHOICE if mail_waits else None,
        reversible="can be undone with `delete`",
        seconds=15,
    )


def _find(tenant: str, everything: list[Tenant]) -> Tenant:
    """Return the archive of a tenant, or raise Refused."""
    its = [one for one in everything if one.name == tenant]
    if any(one.role == Role.TENANT for one in its):
        raise Refused(f"`{tenant}` is not archived; see `/mautic status {tenant}`.")
    if not its:
        raise Refused(f"There is no archive of `{tenant}`; `/mautic list --archived` shows all archives.")
    return only(its)


def _refuse_taken(found: Tenant, everything: list[Tenant]) -> None:
    for other in everything:
        if other.role == Role.TENANT and other.domain == found.domain and other.name != found.name:
            raise Refused(f"The domain `{found.domain}` of `{found.name}` now belongs to `{other.name}`.")


@steps_of(unarchive)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Rename the container, start it, and route to it."""
    found, name, archived = inputs.found, inputs.name, f"{inputs.found.name}--archived"
    host = run.fleet.of(found)

    def rename() -> None:
        if found.instance != name:
            # An earlier try may have renamed the container.
            with suppress(NotFound):
                host.lxd.rename(found.instance, name)

    def start() -> str | None:
        if inputs.stopped:
            return "stays stopped, as before the delete"
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
            stamped = as_labels(role=Role.TENANT, archived="", operation=run.operation)
            host.lxd.update(name, {**stamped, "boot.autostart": "false" if inputs.stopped else "true"})
        run.edge.apply()

    def probe() -> str:
        if inputs.stopped:
            return "still stopped"
        if found.state == State.SUSPENDED:
            return "still suspended"
        return see_login_page(run.edge, found.domain)

    def undo() -> None:
        """Archive the container again."""
        try:
            instance = host.lxd.instance(name)
        except NotFound:
            return
        if role_of(instance.config) != Role.ARCHIVED:
            if label_of(instance.config, "operation") != str(run.operation):
                return
            stamped = as_labels(role=Role.ARCHIVED, archived=int(run.now()))
            host.lxd.update(name, {**stamped, "boot.autostart": "false"})
        run.edge.apply()
        containment.stop(host.lxd, name)
        host.lxd.rename(name, archived)

    return Steps(
        (
            Step("unarchive", "Take the container out of the archive", rename),
            Step("start", "Start the container", start),
            Step("route", "Add the route", route),
            probing(probe),
        ),
        undo=undo,
        commit=PROBE,
    )
