"""Ends what is over: requests, freezes, first credentials, and the rows of errands and deliveries."""

from __future__ import annotations

from bot import errands, inbox
from bot.freezes import Freezes
from bot.registry import Context
from bot.scheduler import schedule


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
