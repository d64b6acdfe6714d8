"""Ends what is over: requests, and first credentials."""

from __future__ import annotations

from bot.registry import Context
from bot.scheduler import schedule


@schedule(seconds=15)
def expiry(context: Context) -> None:
    """End requests that nobody decided on in time, and forget credentials that nobody came for.

    A restart or downtime changes nothing, as only the clock and the rows are looked at.
    """
    context.approvals.expire()
    context.vault.purge()
