"""`/mautic audit`: the log that cannot be quietly rewritten."""

from __future__ import annotations

import json
from typing import Literal

from bot import audit as log
from bot.approvals import Actor
from bot.messages import Message
from bot.registry import Context, fresh, query


@fresh
@query
def audit(context: Context, what: Literal["recent", "verify", "export"] = "recent", *, head: str = "") -> Message:
    """Show the latest of the audit log, prove that nobody changed it, or export it.

    `verify` walks the chain of hashes, and with `--head` sees that a head it gave before is still in the chain;
    `export` writes the log as JSON lines on the bot's machine.
    """
    context.approvals.refuse_to_ask("audit", context.actor)
    if what == "verify":
        return context.renderer.message("commands/audit.j2", what=what, verdict=log.verify(context.database, head))
    if what == "export":
        path = context.settings.state / f"audit-{int(context.now())}.jsonl"
        with path.open("w") as file:
            rows = sum(1 for row in log.export(context.database) if file.write(row + "\n"))
        _record_export(context, context.actor, rows)
        return context.renderer.message("commands/audit.j2", what=what, path=str(path), rows=rows)
    rows_shown = [dict(row) | {"detail": json.loads(row["detail"])} for row in log.recent(context.database, limit=15)]
    return context.renderer.message("commands/audit.j2", what=what, rows=rows_shown)


def _record_export(context: Context, actor: Actor, rows: int) -> None:
    with context.database.transaction() as transaction:
        log.record(transaction, log.Event("audit.exported", actor.id, detail={"rows": rows}), context.now())
