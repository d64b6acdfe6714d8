"""`/mautic purge`: remove for good what is kept of a tenant."""

from __future__ import annotations

from contextlib import suppress

from bot.lxd import NotFound
from bot.plan import Plan, Refused, Step, UnknownWords
from bot.registry import Context, TenantArgument, operation
from bot.steps import refuse_another, remove
from bot.tenants import Tenant


@operation
def purge(context: Context, tenant: TenantArgument, container: str = "") -> Plan:
    """Remove for good what is kept of a tenant: its archive, or a container that another took the place of.

    By itself the bot does this when the policy's days are over. The approver types the tenant's name.
    """
    found = _chosen(context, tenant, container)

    def take_away() -> str | None:
        if found is None:
            return "it was gone already"
        try:
            remove(context.fleet.of(found).lxd, found.instance)
        except NotFound:
            return "it was gone already"
        return None

    def undo() -> None:
        """Protect again what could not be removed."""
        if found is not None:
            with suppress(NotFound):
                context.fleet.of(found).lxd.update(found.instance, {"security.protection.delete": "true"})

    name = found.instance if found else container
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "container": name},
        summary=f"Remove for good what is kept of the tenant {tenant}",
        facts={"Removes": f"the container {name}, with all its data and snapshots"},
        remarks={"It is": _what(context, found)} if found else {},
        steps=(Step("Remove the container", take_away), Step("Route without it", context.edge.apply)),
        reversible="cannot be undone",
        seconds=5,
        undo=undo,
    )


def _chosen(context: Context, tenant: str, container: str) -> Tenant | None:
    """Return the one that is meant; None when an operation that goes on has removed it."""
    seen = context.fleet.look("archived", "former", "incoming")
    kept = [one for one in seen.tenants if one.name == tenant]
    meant = [one for one in kept if container in ("", one.instance)]
    if len(meant) == 1:
        refuse_another(context, meant[0])
        return meant[0]
    if not meant:
        context.fleet.refuse_blindness(seen)
    if context.operation:
        return None
    names = ", ".join(f"`{one.instance}`" for one in kept)
    if not kept:
        raise Refused(f"Nothing is kept of `{tenant}` that could be removed.")
    if container:
        raise UnknownWords(f"There is no container “{container[:60]}” kept of `{tenant}`; there is {names}.")
    raise Refused(f"Which one? There is {names}: `/mautic purge {tenant} <container>`.")


def _what(context: Context, found: Tenant) -> str:
    if found.role == "archived":
        return f"the archive of {context.renderer.moment(found.archived)}"
    if found.role == "incoming":
        return f"what operation {found.operation} left behind"
    until = f", to be kept until {context.renderer.moment(found.kept_until)}" if found.kept_until else ""
    return f"what was there before {found.reason}{until}"
