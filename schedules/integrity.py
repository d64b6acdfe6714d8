"""Checks that the audit log still contains what the bot posted to Slack: a lost database starts a new log."""

from __future__ import annotations

import logging

from bot.checks import WEEK, missing_heads
from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import LOG
from bot.slack.incidents import Seen
from bot.slack.poster import TooBusy
from bot.store import audit

log = logging.getLogger(__name__)


@schedule(seconds=3600)
def integrity(context: Context) -> None:
    """Compare the audit log with the checkpoints in the bot's Slack messages of the last week."""
    unseen: frozenset[str] = frozenset()
    try:
        lost = missing_heads(context)
    except TooBusy as error:
        # No new alarm, but an open incident stays: its proof may be among the messages that were not read.
        log.warning("%s", error)
        lost, unseen = [], frozenset(["audit"])
    with context.database.transaction() as transaction:
        context.incidents.judge(transaction, Seen({}, {LOG: Diagnosis(_findings(context, lost), unseen)}))


def _findings(context: Context, lost: list[tuple[int, str]]) -> tuple[Finding, ...]:
    """Return what is wrong with the log as a whole; `lost`: the heads in Slack's messages that the log lacks."""
    keep = "Save `bot.db` and its backups, and find out who had access."
    if lost:
        seq, begin = lost[0]
        return (
            Finding(
                "audit",
                f"The audit log does not match what the bot posted to Slack: entry {seq} (`{begin}`) is missing. The "
                f"database was lost, cut, or restored from a backup. {keep}",
            ),
        )
    began = audit.began_anew(context.database, context.now() - WEEK)
    return (Finding("audit", f"The bot started with a new database, but had one before. {keep}"),) if began else ()
