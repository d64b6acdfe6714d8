"""`/mautic audit`: shows, verifies or exports the tamper-evident audit log."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

from bot.checks import missing_heads
from bot.engine.comparison import WEEK
from bot.engine.context import Context
from bot.engine.registry import fresh, query
from bot.model.actor import Actor
from bot.slack.messages import Message
from bot.slack.poster import NotPosted, TooBusy
from bot.store import audit as log
from bot.store.restored import restores


@fresh
@query
def audit(context: Context, what: Literal["recent", "verify", "export"] = "recent", *, head: str = "") -> Message:
    """Show the latest audit log entries, verify that nobody altered the log, or export it.

    `verify` checks the chain of hashes, and with `--head` that an earlier checkpoint is still part of it. The log must
    also contain what the bot posted to Slack within a week. `export` writes JSON lines on the bot's machine.
    """
    context.approvals.refuse_to_ask("audit", context.actor)
    if what == "verify":
        verdict, unseen = log.verify(context.database, head), ""
        if not (verdict.broken or verdict.damaged):
            lost, unseen = _unknown(context)
            if lost:
                reason = f"entry {lost[0][0]} with the hash {lost[0][1]}, which the bot posted to Slack, is missing"
                verdict = replace(verdict, broken=lost[0][0], reason=reason)
            elif known := restores(context.database, context.now() - WEEK):
                row, hashed = known[0].row, known[0].head
                reason = f"entry {row} with the hash {hashed} is missing: the database was restored from a backup"
                verdict = replace(verdict, broken=row, reason=reason)
        return context.renderer.message("commands/audit.j2", what=what, verdict=verdict, unseen=unseen)
    if what == "export":
        path = context.settings.state / f"audit-{int(context.now())}.jsonl"
        with path.open("w") as file:
            rows = sum(1 for row in log.export(context.database) if file.write(row + "\n"))
        _record_export(context, context.actor, rows)
        return context.renderer.message("commands/audit.j2", what=what, path=str(path), rows=rows)
    rows_shown = [dict(row) | {"detail": json.loads(row["detail"])} for row in log.recent(context.database, limit=15)]
    return context.renderer.message("commands/audit.j2", what=what, rows=rows_shown)


def _unknown(context: Context) -> tuple[list[tuple[int, str]], str]:
    """Return the heads in Slack's messages that the log lacks, and a sentence why not all were compared, or ""."""
    try:
        return missing_heads(context), ""
    except TooBusy as error:
        return [], str(error)
    except NotPosted as error:
        return [], f"What the bot posted to Slack was not compared with it: {error}"


def _record_export(context: Context, actor: Actor, rows: int) -> None:
    with context.database.transaction() as transaction:
        log.record(transaction, log.Event("audit.exported", actor.id, detail={"rows": rows}), context.now())
