"""Ends requests that nobody decided on in time, and forgets credentials that nobody came for."""

from __future__ import annotations

from bot.registry import Context
from bot.scheduler import schedule


@schedule(seconds=15)
def expiry(context: Context) -> None:
    """End what is over; a restart or downtime changes nothing, as only the clock and the rows are looked at."""
    context.approvals.expire()
    context.vault.purge()
