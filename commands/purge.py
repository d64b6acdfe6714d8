"""`/mautic purge`: remove for good what is kept of a tenant."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.engine.steps import refuse_another, remove
from bot.lxd.protocol import NotFound
from bot.model.labels import Role, State, role_of, serving, state_of
from bot.model.plan import Plan, Refused, Step, Steps, UnknownWords, always, once
from bot.model.tenants import Tenant


@dataclass(frozen=True)
class Inputs:
    """The container; None: it was gone when this began."""

    found: Tenant | None


@operation
def purge(context: Context, tenant: TenantArgument, container: str = "") -> Plan:
    """Remove for good what is kept of a tenant: its archive, or a container that another took the place of.

    The live tenant is not touched. By itself the bot does this when the policy's days are over. The approver types the
    tenant's name.
    """
    seen = context.fleet.look(Role.TENANT, Role.ARCHIVED, Role.FORMER, Role.INCOMING)
    its = [one for one in seen.tenants if one.name == tenant]
    serves = serving(its)
    meant = [one for one in its if one.role != Role.TENANT and container in ("", one.instance)]
    if not meant:
        context.fleet.refuse_blindness(seen)
    found = meant[0] if len(meant) == 1 else None
    name, offline = found.instance if found else container, found is not None and found == serves
    texts = {"is": _what(context, found), "stays": _not_affected(context, found)} if found else {}
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "container": name},
        summary=f"Remove for good what is kept of the tenant {tenant}",
        values={"container": name, "offline": offline},
        texts=texts,
        facts={
            "Removes": f"the container {name}, with all its data and snapshots",
            **({"Goes offline": _goes_offline(tenant, found)} if found and offline else {}),
        },
        remarks={"It is": texts["is"], "Not affected": texts["stays"]} if texts else {},
        requires=(
            # By the time that it begins an earlier try may have removed it.
            once(_refuse_unclear, context, tenant, container, its, found),
            always(_refuse_unfit, context, container, found, serves),
        ),
        inputs=Inputs(found),
        reversible="cannot be undone",
        seconds=5,
    )


def _refuse_unclear(context: Context, tenant: str, container: str, its: list[Tenant], found: Tenant | None) -> None:
    """Raise Refused where it is not one container that is meant, and say which ones there are."""
    if found:
        return
    kept = [one for one in its if one.role != Role.TENANT]
    names = ", ".join(f"`{one.instance}` ({_what(context, one)})" for one in kept)
    live = f" The live `{tenant}` is not among them." if len(its) > len(kept) else ""
    if not kept:
        raise Refused(
            f"Nothing is kept of `{tenant}` that could be removed; the live one goes with `/mautic delete {tenant}`."
        )
    if container and any(container == one.instance for one in its):
        raise Refused(
            f"`{container[:60]}` is the live `{tenant}`, and is never purged: `/mautic delete {tenant}` archives it. "
            f"What is kept beside it: {names}."
        )
    if container:
        raise UnknownWords(f"There is no container “{container[:60]}” kept of `{tenant}`; there is {names}.")
    raise Refused(f"Which one?{live} There is {names}: `/mautic purge {tenant} <container>`.")


def _refuse_unfit(context: Context, container: str, found: Tenant | None, serves: Tenant | None) -> None:
    """Raise Refused where it is not what was approved, or serves though nobody named it."""
    if found is None:
        return
    refuse_another(context, found)
    if found == serves and not container:
        raise Refused(
            f"`{found.instance}` on {found.host} is what serves `{found.name}` now; nothing else is kept of it. If "
            f"it is to go all the same, name it: `/mautic purge {found.name} {found.instance}`."
        )


def _refuse_the_tenant(run: Run, found: Tenant) -> None:
    """Raise Refused when it is the tenant by now: only one whose candidate is the tenant may be called so still."""
    config = run.fleet.of(found).lxd.instance(found.instance).config
    if (role_of(config), found.role) == (Role.TENANT, Role.FORMER) and state_of(config) == State.MOVING:
        return
    if role_of(config) == Role.TENANT:
        raise Refused(f"`{found.instance}` is the live `{found.name}`, and is not removed.")


def _goes_offline(tenant: str, found: Tenant) -> str:
    return (
        f"{tenant}, which {found.instance} on {found.host} serves now; what clients have written to it is lost, and "
        f"the container of before goes on with `/mautic start {tenant}`"
    )


def _not_affected(context: Context, found: Tenant) -> str:
    """Name the live one: after a restore it is the old container that is called as the tenant."""
    seen = context.fleet.look(Role.TENANT)
    live = [one for one in seen.tenants if one.name == found.name]
    if live:
        return f"the live {found.name}, container {' and '.join(f'{one.instance} on {one.host}' for one in live)}"
    if seen.silent:
        return f"the live {found.name}, if there is one: it cannot be seen, as {', '.join(seen.silent)} does not answer"
    return f"nothing: there is no live {found.name}, and this is what is left of it"


def _what(context: Context, found: Tenant) -> str:
    if found.role == Role.ARCHIVED:
        return f"the archive of {context.renderer.moment(found.archived)}"
    if found.role == Role.INCOMING:
        return f"what operation {found.operation} left behind"
    until = f", to be kept until {context.renderer.moment(found.kept_until)}" if found.kept_until else ""
    return f"what was there before {found.reason}{until}"


@steps_of(purge)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Remove it, and route without it."""
    found = inputs.found

    def take_away() -> str | None:
        if found is None:
            return "it was gone already"
        try:
            _refuse_the_tenant(run, found)
            remove(run.fleet.of(found).lxd, found.instance)
        except NotFound:
            return "it was gone already"
        return None

    def undo() -> None:
        """Protect again what could not be removed."""
        if found is not None:
            with suppress(NotFound):
                run.fleet.of(found).lxd.update(found.instance, {"security.protection.delete": "true"})

    return Steps(
        (Step("remove", "Remove the container", take_away), Step("route", "Route without it", run.edge.apply)),
        undo=undo,
    )
