"""Checks that the audit log still contains what the bot posted to Slack: a lost database starts a new log."""

from __future__ import annotations

from bot.checks import WEEK, unknown_heads
from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import LOG
from bot.slack.incidents import Seen
from bot.store import audit


@schedule(seconds=3600)
def integrity(context: Context) -> None:
    """Compare the audit log with the checkpoints in the bot's Slack messages of the last week."""
    findings = _findings(context)
    with context.database.transaction() as transaction:
        context.incidents.judge(transaction, Seen({}, {LOG: Diagnosis(findings)}))


def _findings(context: Context) -> tuple[Finding, ...]:
    """Return what is wrong with the log as a whole; raises NotPosted where Slack does not tell what it saw."""
    lost = unknown_heads(context)
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
