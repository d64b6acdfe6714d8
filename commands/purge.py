"""`/mautic purge`: delete an old copy of a tenant permanently."""

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
    """What the steps are made from. `found`: the container; None: already gone when the operation began."""

    found: Tenant | None


@operation
def purge(context: Context, tenant: TenantArgument, container: str = "") -> Plan:
    """Delete an old copy of a tenant permanently: its archive, or a previous container.

    The live tenant is not affected. The bot deletes old copies itself after the days of the policy. The approver types
    the tenant's name.
    """
    seen = context.fleet.inventory(Role.TENANT, Role.ARCHIVED, Role.RETIRED, Role.INCOMING, Role.REHEARSAL)
    its = [
        one
        for one in seen.tenants
        if one.name == tenant and (one.instance == container or not _is_rehearsing(context, one))
    ]
    serves = serving(its)
    meant = [one for one in its if one.role != Role.TENANT and container in ("", one.instance)]
    if not meant:
        context.fleet.require_all_answered(seen)
    found = meant[0] if len(meant) == 1 else None
    name, offline = found.instance if found else container, found is not None and found == serves
    texts = {"is": _what(context, found), "stays": _not_affected(context, found)} if found else {}
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "container": name},
        summary=f"Delete {_called(found, offline)} of {tenant} permanently",
        values={"container": name, "offline": offline},
        texts=texts,
        facts={
            "Deletes": f"container {name}{f' on {found.host}' if found else ''}, with all data and snapshots",
            **({"Goes offline": _goes_offline(tenant, found)} if found and offline else {}),
        },
        remarks={"It is": texts["is"], "Not affected": texts["stays"]} if texts else {},
        requires=(
            # When the operation begins, an earlier try may have deleted the container.
            once(_refuse_unclear, context, tenant, container, its, found),
            always(_refuse_unfit, context, container, found, serves),
        ),
        inputs=Inputs(found),
        reversible="cannot be undone",
        seconds=5,
    )


def _is_rehearsing(context: Context, one: Tenant) -> bool:
    """Return whether an open rehearsal made a container. Such a copy is not offered; one that is named is locked."""
    made_by = context.operations.select("id = ?", one.operation) if one.role == Role.REHEARSAL else []
    return any(operation.open for operation in made_by)


def _refuse_unclear(context: Context, tenant: str, container: str, its: list[Tenant], found: Tenant | None) -> None:
    """Raise Refused unless exactly one container is meant, and list the old copies."""
    if found:
        return
    if not its:
        raise Refused(
            f"There is no tenant or old copy named `{tenant}`. See `/mautic list` and `/mautic list --archived`."
        )
    kept = [one for one in its if one.role != Role.TENANT]
    names = ", ".join(f"`{one.instance}` ({_what(context, one)})" for one in kept)
    live = f" (The live `{tenant}` is not among them.)" if len(its) > len(kept) else ""
    if not kept:
        raise Refused(
            f"There is no old copy of `{tenant}` to delete; `/mautic delete {tenant}` archives the live tenant."
        )
    if container and any(container == one.instance for one in its):
        raise Refused(
            f"`{container[:60]}` is the live `{tenant}`, which is never purged; `/mautic delete {tenant}` archives the "
            f"tenant. Old copies: {names}."
        )
    if container:
        raise UnknownWords(f"`{tenant}` has no old copy “{container[:60]}”; available: {names}.")
    raise Refused(f"Which old copy?{live} Available: {names}. Name one: `/mautic purge {tenant} <container>`.")


def _refuse_unfit(context: Context, container: str, found: Tenant | None, serves: Tenant | None) -> None:
    """Raise Refused where the container is not what was approved, or serves the tenant and was not named."""
    if found is None:
        return
    refuse_another(context, found)
    if found == serves and not container:
        raise Refused(
            f"`{found.instance}` on {found.host} serves `{found.name}` now, and there is no other copy. To delete that "
            f"container anyway, name it: `/mautic purge {found.name} {found.instance}`."
        )


def _refuse_the_tenant(run: Run, found: Tenant) -> None:
    """Raise Refused when the container is the live tenant now; one that was replaced may still be labelled so."""
    config = run.fleet.of(found).lxd.instance(found.instance).config
    if (role_of(config), found.role) == (Role.TENANT, Role.RETIRED) and state_of(config) == State.MOVING:
        return
    if role_of(config) == Role.TENANT:
        raise Refused(f"`{found.instance}` is the live `{found.name}`, and is not deleted.")


def _goes_offline(tenant: str, found: Tenant) -> str:
    return (
        f"{tenant}, which {found.instance} on {found.host} serves now; data that clients wrote there is lost, and "
        f"`/mautic start {tenant}` starts the previous container"
    )


def _not_affected(context: Context, found: Tenant) -> str:
    """Return which live container stays: after a restore the retired one has the name of the tenant."""
    seen = context.fleet.inventory(Role.TENANT)
    live = [one for one in seen.tenants if one.name == found.name]
    if live:
        return f"the live {found.name}, container {' and '.join(f'{one.instance} on {one.host}' for one in live)}"
    if seen.silent:
        return f"the live {found.name}, if there is one ({', '.join(seen.silent)} does not answer)"
    return f"nothing: there is no live {found.name}, and this is the last copy"


def _called(found: Tenant | None, serves: bool) -> str:
    """Return what is deleted, in words for the summary."""
    if serves:
        return "the serving container"
    if found and found.role in (Role.ARCHIVED, Role.INCOMING, Role.REHEARSAL):
        return "archive" if found.role == Role.ARCHIVED else "leftover copy"
    return "old copy"


def _what(context: Context, found: Tenant) -> str:
    if found.role == Role.ARCHIVED:
        return f"the archive of {context.renderer.moment(found.archived)}"
    if found.role in (Role.INCOMING, Role.REHEARSAL):
        what = "copy of a rehearsal, " if found.role == Role.REHEARSAL else ""
        return f"{what}left over from request #{found.operation}"
    until = f", kept until {context.renderer.moment(found.kept_until)}" if found.kept_until else ""
    return f"replaced by {found.reason}{until}"


@steps_of(purge)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Delete the container, and update the routes."""
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
        """Protect the container again if it could not be deleted."""
        if found is not None:
            with suppress(NotFound):
                run.fleet.of(found).lxd.update(found.instance, {"security.protection.delete": "true"})

    return Steps(
        (Step("remove", "Delete the container", take_away), Step("route", "Update routes", run.edge.apply)),
        undo=undo,
    )
