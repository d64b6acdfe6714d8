"""Ends what is over: requests, first credentials, and the rows of errands and deliveries."""

from __future__ import annotations

from bot import errands, inbox
from bot.registry import Context
from bot.scheduler import schedule


@schedule(seconds=15)
def expiry(context: Context) -> None:
    """End requests that nobody decided on in time; forget credentials nobody came for, old errands and deliveries.

    A restart or downtime changes nothing, as only the clock and the rows are looked at.
    """
    context.lived.note()
    context.approvals.expire()
    context.vault.purge()
    errands.forget(context)
    inbox.forget(context.database, context.lived)
