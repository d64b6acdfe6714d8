"""Ends what is over: requests, freezes, first credentials, and the rows of errands and deliveries."""

from __future__ import annotations

from bot.engine import errands
from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.store import inbox
from bot.store.freezes import Freezes


@schedule(seconds=15)
def expiry(context: Context) -> None:
    """End requests that nobody decided on in time, and freezes; forget old credentials, errands and deliveries.

    A restart or downtime changes nothing, as only the clock and the rows are looked at.
    """
    context.lived.note()
    context.approvals.expire()
    Freezes(context.operations).expire()
    context.vault.purge()
    errands.forget(context)
    inbox.forget(context.database, context.lived)
