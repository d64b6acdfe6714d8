"""`/mautic snapshot`: a tenant as it is now, to come back to."""

from __future__ import annotations

from dataclasses import replace

from bot.plan import Plan, Step, Steps, once, require
from bot.registry import Context, Run, TenantArgument, operation, steps_of
from bot.snapshots import Taking, refuse_without_room, take, taking


@operation
def snapshot(context: Context, tenant: TenantArgument, *, note: str = "", keep: bool = False) -> Plan:
    """Take a snapshot of a tenant, all of one moment; writes wait a fraction of a second.

    `--keep` protects it from being pruned.
    """
    found = context.fleet.tenant(tenant)
    fits = require(len(note) <= 200, f"The note is {len(note)} characters long; it has at most 200.")
    return replace(
        taking(context, found, note=note, keep=keep), requires=(fits, once(refuse_without_room, context, found))
    )


@steps_of(snapshot)
def steps(run: Run, inputs: Taking) -> Steps:
    """Take it, once a try."""

    def work() -> str:
        return take(run, inputs.tenant, why=inputs.why, note=inputs.note, keep=inputs.keep)

    return Steps((Step("take", "Take the snapshot", work, takes_snapshot=True),))
