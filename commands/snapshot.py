"""`/mautic snapshot`: a tenant as it is now, to come back to."""

from __future__ import annotations

from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation
from bot.snapshots import take


@operation
def snapshot(context: Context, tenant: TenantArgument, *, note: str = "", keep: bool = False) -> Plan:
    """Take a snapshot of a tenant, all of one moment; writes wait a fraction of a second.

    `--keep` protects it from being pruned.
    """
    found = context.fleet.tenant(tenant)
    if len(note) > 200:
        raise Refused(f"The note is {len(note)} characters long; it has at most 200.")
    why = "schedule" if not context.channel else "asked"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "note": note, "keep": keep},
        summary=f"Take a snapshot of the tenant {tenant}",
        facts={"Kept": "until somebody removes it" if keep else "for as long as the policy says"}
        | ({"Note": note} if note else {}),
        steps=(Step("Take the snapshot", lambda: take(context, found, why=why, note=note, keep=keep)),),
        reversible="changes nothing that runs",
        seconds=1,
    )
