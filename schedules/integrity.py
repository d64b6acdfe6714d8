"""Sees that the audit log still holds what Slack saw of it: a database that was lost begins a log of its own."""

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
    """Compare the audit log with its heads in the bot's own messages of a week; what is not in it is an incident."""
    findings = _findings(context)
    with context.database.transaction() as transaction:
        context.incidents.judge(transaction, Seen({}, {LOG: Diagnosis(findings)}))


def _findings(context: Context) -> tuple[Finding, ...]:
    """Return what is wrong with the log as a whole; raises NotPosted where Slack does not tell what it saw."""
    lost = unknown_heads(context)
    keep = "Keep what is there of `bot.db` and its backups, and find out who could remove it."
    if lost:
        seq, begin = lost[0]
        return (
            Finding(
                "audit",
                f"The audit log is not the one that Slack saw: the last head there that it does not hold is `{begin}`, "
                f"of row {seq}. The database was lost, cut or brought back from a backup. {keep}",
            ),
        )
    began = audit.began_anew(context.database, context.now() - WEEK)
    return (Finding("audit", f"The bot began a new database, and had one before. {keep}"),) if began else ()
