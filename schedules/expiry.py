"""Expires requests, freezes and first logins, and deletes old records of background tasks and deliveries."""

from __future__ import annotations

from bot.engine import maintenance, rehearsal
from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.store import claims, inbox, restored
from bot.store.freezes import Freezes


@schedule(seconds=15)
def expiry(context: Context) -> None:
    """Expire requests, freezes and first logins, and delete old records of background tasks and deliveries.

    Decides from the clock and the database alone, so that a restart or downtime changes nothing. Also records which
    planned operations wait for others past their time.
    """
    context.uptime.note()
    claims.note_turns(context.operations, context.settings.bot.workers)
    context.approvals.expire()
    Freezes(context.operations).expire()
    context.vault.purge()
    maintenance.forget(context)
    rehearsal.forget(context)
    inbox.forget(context.database, context.uptime)
    # Last, as the disk may be too full for this file.
    restored.keep_head(context.database, context.settings.state)
