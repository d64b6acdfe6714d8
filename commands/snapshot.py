"""`/mautic snapshot`: a tenant as it is now, to come back to."""

from __future__ import annotations

from bot.plan import Plan, Refused
from bot.registry import Context, TenantsArgument, operation
from bot.selection import Selection, batch
from bot.snapshots import refuse_without_room, taking


@operation
def snapshot(
    context: Context,
    tenant: TenantsArgument = "",
    *,
    note: str = "",
    keep: bool = False,
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
) -> Plan:
    """Take a snapshot of a tenant, all of one moment; writes wait a fraction of a second.

    `--keep` protects it from being pruned. Of several tenants, named with commas between or chosen by `--all`,
    `--host`, `--size` or `--tag`, one request does each in its turn.
    """
    if len(note) > 200:
        raise Refused(f"The note is {len(note)} characters long; it has at most 200.")

    def one(context: Context, name: str) -> Plan:
        found = context.fleet.tenant(name)
        refuse_without_room(context, found)
        return taking(context, found, note=note, keep=keep)

    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return one(context, tenant)
    return batch(
        context, "snapshot", selection, one, doing="Take a snapshot of", arguments={"note": note, "keep": keep}
    )
