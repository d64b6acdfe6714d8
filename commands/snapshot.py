"""`/mautic snapshot`: take a snapshot of a tenant, to restore to later."""

from __future__ import annotations

from dataclasses import replace

from bot.engine.context import Context, Run
from bot.engine.registry import TenantsArgument, operation, steps_of
from bot.engine.selection import Selection, batch
from bot.engine.snapshots import Taking, refuse_without_space, take, taking
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
    """Take a consistent snapshot (writes pause for under a second).

    `--keep` protects the snapshot from cleanup. To take snapshots of several tenants with one request, name them with
    commas between, or choose them with `--all`, `--host`, `--size` or `--tag`.
    """
    fits = require(len(note) <= 200, f"The note has {len(note)} characters; the limit is 200.")

    def one(context: Context, name: str) -> Plan:
        found = context.fleet.tenant(name)
        plan = taking(context, found, note=note, keep=keep)
        return replace(plan, requires=(fits, once(refuse_without_space, context, found)))

    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return one(context, tenant)
    return batch(
        context, "snapshot", selection, one, doing="Take a snapshot of", arguments={"note": note, "keep": keep}
    )


@steps_of(snapshot)
def steps(run: Run, inputs: Taking) -> Steps:
    """Take the snapshot, once per try."""

    def work() -> str:
        return take(run, inputs.tenant, why=inputs.why, note=inputs.note, keep=inputs.keep).words

    return Steps((Step("take", "Take the snapshot", work, takes_snapshot=True),))
