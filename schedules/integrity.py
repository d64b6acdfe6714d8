"""Checks that the audit log still contains what the bot posted to Slack: a lost database starts a new log."""

from __future__ import annotations

import logging
from contextlib import suppress

from bot.checks import missing_heads
from bot.engine.comparison import WEEK
from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import LOG
from bot.slack.incidents import Seen
from bot.slack.poster import TooBusy
from bot.store import audit, restored

log = logging.getLogger(__name__)
SKEW = 600.0
"""Seconds by which Slack's clock may differ from the bot's."""


@schedule(seconds=3600)
def integrity(context: Context) -> None:
    """Compare the audit log with the checkpoints in the bot's Slack messages of the last week.

    If the database turns out to be restored from a backup, hold what waits in it.
    """
    unseen: frozenset[str] = frozenset()
    try:
        lost = missing_heads(context)
    except TooBusy as error:
        # No new alarm, but an open incident stays: its proof may be among the messages that were not read.
        log.warning("%s", error)
        lost, unseen = [], frozenset(["audit"])
    if lost:
        _hold(context)
    with context.database.transaction() as transaction:
        context.incidents.judge(transaction, Seen({}, {LOG: Diagnosis(_findings(context, lost), unseen)}))


def _hold(context: Context) -> None:
    """Hold what waits if the database is from a backup, and not another one than that of earlier messages.

    Rows prove that only if they were posted after the log began, and after the last restore that is known.
    """
    began = context.database.read("SELECT at FROM audit WHERE seq = 1 AND event <> ?", audit.ANEW)
    since = [row["at"] for row in began] + [one.at for one in restored.restores(context.database)]
    with suppress(TooBusy):
        if began and (lost := missing_heads(context, max(since) + SKEW)):
            restored.hold(context.operations, lost, working=True)


def _findings(context: Context, lost: list[tuple[int, str]]) -> tuple[Finding, ...]:
    """Return what is wrong with the log as a whole; `lost`: the heads in Slack's messages that the log lacks."""
    since = context.now() - WEEK
    keep = "Save `bot.db` and its backups, and find out who had access."
    if known := restored.restores(context.database, since):
        row, head = known[0].row, known[0].head
        return (
            Finding(
                "audit",
                f"The bot's database was restored from a backup, or cut: entry {row} (`{head}`) is missing. "
                "Decisions, freezes and pauses of jobs since the backup are lost, so the bot cancelled what waited, "
                "paused batches and froze all tenants. Compare the freezes and paused jobs (`/mautic schedule list`) "
                f"with what you know, then `/mautic unfreeze all`. {keep}",
            ),
        )
    if lost:
        seq, begin = lost[0]
        return (
            Finding(
                "audit",
                f"The audit log does not match what the bot posted to Slack: entry {seq} (`{begin}`) is missing. The "
                f"database was lost, cut, or restored from a backup. {keep}",
            ),
        )
    began = audit.began_anew(context.database, since)
    return (Finding("audit", f"The bot started with a new database, but had one before. {keep}"),) if began else ()
