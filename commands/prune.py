"""`/mautic prune`: remove snapshots of a tenant."""

from __future__ import annotations

from difflib import get_close_matches

from bot.plan import Plan, Refused, UnknownWords
from bot.registry import Context, TenantArgument, operation
from bot.snapshots import counted, ours, pruning, retention


@operation
def prune(context: Context, tenant: TenantArgument, snapshots: str = "") -> Plan:
    """Remove the snapshots of a tenant that the policy does not keep, or some by name, with commas between.

    Those that it does not keep are removed by a schedule too; a protected one goes only by its name.
    """
    found = context.fleet.tenant(tenant)
    if context.operation:
        return pruning(context, found, snapshots.split(","), "")
    existing = context.fleet.of(found).lxd.snapshots(found.instance)
    if snapshots:
        names = list(dict.fromkeys(name.strip() for name in snapshots.split(",")))
        _refuse_unknown(tenant, names, [one.name for one in ours(existing)])
        return pruning(context, found, names, "named one by one")
    policy = context.settings.snapshots
    surplus = retention(context, tenant).surplus(counted(context, existing), context.now())
    if not surplus:
        raise Refused(f"Nothing is to be removed: every snapshot of `{tenant}` is kept ({policy}, and protected ones).")
    return pruning(context, found, [one.name for one in surplus], f"the policy keeps {policy}")


def _refuse_unknown(tenant: str, names: list[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"`/mautic snapshots {tenant}` lists them."
            raise UnknownWords(f"`{tenant}` has no snapshot “{name[:60]}” of the bot's; {hint}")
