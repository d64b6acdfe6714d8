"""`/mautic snapshot`: a tenant as it is now, to come back to."""

from __future__ import annotations

from bot.plan import Plan, Refused
from bot.registry import Context, TenantArgument, operation
from bot.snapshots import refuse_without_room, taking


@operation
def snapshot(context: Context, tenant: TenantArgument, *, note: str = "", keep: bool = False) -> Plan:
    """Take a snapshot of a tenant, all of one moment; writes wait a fraction of a second.

    `--keep` protects it from being pruned.
    """
    if len(note) > 200:
        raise Refused(f"The note is {len(note)} characters long; it has at most 200.")
    found = context.fleet.tenant(tenant)
    refuse_without_room(context, found)
    return taking(context, found, note=note, keep=keep)
