"""`/mautic prune`: delete snapshots of a tenant."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from bot.engine import snapshots as snapshots_of
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.engine.snapshots import Pruning, counted, ours, pruning, retention
from bot.model.plan import Plan, Refused, Step, Steps, UnknownWords, once
from bot.model.tenants import Tenant


@operation
def prune(context: Context, tenant: TenantArgument, snapshots: str = "") -> Plan:
    """Delete a tenant's snapshots that the policy does not keep, or some by name (with commas between).

    A background job deletes the former, too; a protected snapshot is deleted only by name.
    """
    found = context.fleet.tenant(tenant)
    if snapshots:
        names = list(dict.fromkeys(name.strip() for name in snapshots.split(",")))
        return replace(
            pruning(found, names, "chosen by name"), requires=(once(_refuse_unknown, context, found, names),)
        )
    policy = context.settings.snapshots
    existing = context.fleet.of(found).lxd.snapshots(found.instance)
    surplus = retention(context, tenant).surplus(counted(context, existing), context.now())
    if not surplus:
        raise Refused(f"Nothing to delete: every snapshot of `{tenant}` is kept ({policy}, and protected ones).")
    return pruning(found, [one.name for one in surplus], f"the policy keeps {policy}")


def _refuse_unknown(context: Context, found: Tenant, names: list[str]) -> None:
    known = [one.name for one in ours(context.fleet.of(found).lxd.snapshots(found.instance))]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"`/mautic snapshots {found.name}` lists them."
            raise UnknownWords(f"`{found.name}` has no snapshot “{name[:60]}” of the bot; {hint}")


@steps_of(prune)
def steps(run: Run, inputs: Pruning) -> Steps:
    """Delete the snapshots that still exist."""
    number = len(inputs.snapshots)
    title = f"Delete {number} snapshot{'s' if number > 1 else ''}"
    return Steps((Step("remove", title, lambda: snapshots_of.prune(run, inputs.tenant, inputs.snapshots)),))
