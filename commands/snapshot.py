"""`/mautic snapshot`: a tenant as it is now, to come back to."""

from __future__ import annotations

from dataclasses import replace

from bot.engine.context import Context, Run
from bot.engine.registry import TenantsArgument, operation, steps_of
from bot.engine.selection import Selection, batch
from bot.engine.snapshots import Taking, refuse_without_room, take, taking
from bot.model.plan import Plan, Step, Steps, once, require


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
    fits = require(len(note) <= 200, f"The note is {len(note)} characters long; it has at most 200.")

    def one(context: Context, name: str) -> Plan:
        found = context.fleet.tenant(name)
        plan = taking(context, found, note=note, keep=keep)
        return replace(plan, requires=(fits, once(refuse_without_room, context, found)))

    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return one(context, tenant)
    return batch(
        context, "snapshot", selection, one, doing="Take a snapshot of", arguments={"note": note, "keep": keep}
    )


@steps_of(snapshot)
def steps(run: Run, inputs: Taking) -> Steps:
    """Take it, once a try."""

    def work() -> str:
        return take(run, inputs.tenant, why=inputs.why, note=inputs.note, keep=inputs.keep)

    return Steps((Step("take", "Take the snapshot", work, takes_snapshot=True),))
