"""`/mautic logs`: shows the last lines of a tenant's log, only to the person who asks."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from bot.engine.context import Context
from bot.engine.registry import TenantArgument, fresh, query
from bot.guest.mautic import Log
from bot.model.text import OUTPUT, escape
from bot.slack.messages import Message
from bot.store import audit

BLOCKS = 4
"""Blocks of output that fit one message."""


@fresh
@query
def logs(
    context: Context,
    tenant: TenantArgument,
    what: Log = "mautic",
    *,
    lines: Annotated[int, Parameter(validator=Number(gte=1, lte=500))] = 40,
) -> Message:
    """Show the last lines of a tenant's log, with secrets removed.

    For operators and approvers, as logs contain personal data of a client's contacts. Every view is in the audit log.
    """
    context.approvals.refuse_to_ask("logs", context.actor)
    found = context.fleet.tenant(tenant)
    event = audit.Event("logs.read", context.actor.id, tenant, 0, {"what": what, "lines": lines})
    with context.database.transaction() as transaction:
        audit.record(transaction, event, context.now())
    rows = context.fleet.of(found).mautic.logs(found.instance, what, lines).splitlines()
    blocks, shown = _blocks(rows)
    return context.renderer.message(
        "commands/logs.j2", tenant=tenant, what=what, blocks=blocks, shown=shown, total=len(rows)
    )


def _blocks(rows: list[str]) -> tuple[list[str], int]:
    """Put the last lines into blocks that fit; return the blocks, and how many lines they hold."""
    blocks: list[list[str]] = [[]]
    room, shown = OUTPUT, 0
    for row in reversed(rows):
        length = len(escape(row[-OUTPUT // 2 :])) + 2
        if length > room:
            if len(blocks) == BLOCKS:
                break
            blocks.append([])
            room = OUTPUT
        blocks[-1].append(row[-OUTPUT // 2 :])
        room -= length
        shown += 1
    return ["\n".join(reversed(block)) for block in reversed(blocks) if block], shown
