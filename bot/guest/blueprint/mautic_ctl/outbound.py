# ruff: noqa: S608 - SQL is made of constants, column names and numbers
"""`mail`, `release`: counts the mail that waits, and sends it, drops it or keeps it back.

While outbound mail is off, the jobs that send are commented out in the crontab, and the workers process page hits only.
Both are files, so they survive a reboot and need nothing from the image that the tenant was made from. What Mautic
sends at once (a form's answer, a test mail) goes through the same queue, so it waits too.
"""

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import due
from .database import start_database
from .jobs import SENDERS, end_senders
from .page import wait_for_page
from .system import (
    BEATS,
    CLOSED,
    CRONTAB,
    MUTE,
    STATE,
    CtlError,
    await_systemd,
    read_json,
    sql,
    systemctl,
    write,
)
from .workers import start_workers

OFF = STATE / "outbound-off"
"""The marker that outbound mail is off, since its modification time."""
DROP_IN = Path("/etc/systemd/system/mautic-worker@.service.d/outbound-off.conf")
PAGE_HITS = "# Outbound mail is off.\n[Service]\nExecStart=\nExecStart=/usr/local/bin/mautic-worker hit\n"
COMMENTED = "#outbound-off# "

PENDING = f"""emails e JOIN email_list_xref x ON x.email_id = e.id
  JOIN lead_lists_leads ll ON ll.leadlist_id = x.leadlist_id AND ll.manually_removed = 0
  JOIN leads l ON l.id = ll.lead_id AND l.email <> ''
  WHERE {due.BROADCASTS}
  AND NOT EXISTS (SELECT 1 FROM email_stats s WHERE s.lead_id = ll.lead_id AND s.email_id = e.id)
  AND NOT EXISTS (SELECT 1 FROM lead_donotcontact d WHERE d.lead_id = ll.lead_id AND d.channel = 'email')
  AND NOT EXISTS (SELECT 1 FROM message_queue m WHERE m.lead_id = ll.lead_id AND m.channel = 'email'
    AND m.channel_id = e.id AND m.status <> 'sent')"""
"""Contacts to whom mautic:broadcasts:send would send a segment email: EmailBundle/Entity/EmailRepository,
getPublishedBroadcastsQuery and getEmailPendingQuery, without their handling of variants, exclusions and categories."""

QUEUED = "queue_name = 'email' AND (delivered_at IS NULL OR delivered_at < '9999-12-31')"
"""Rows of `messenger_messages` that a worker will send. A handled row stays for a moment, with a time in the year 9999.
"""

A_HIT = "body LIKE BINARY '%HitNotification%'"
"""Rows of `messenger_messages` that are not mail, but report a page or mail that was opened: MessengerBundle/Message/
PageHitNotification and EmailHitNotification. The report of a contact that was merged or deleted meanwhile fails for
good."""

MOST = 20_000
"""The most rows of a kind that are counted."""
AT_ONCE = 5000
"""Rows that are dropped in one transaction."""
UNHURRIED, IN_SERVICE = 10, 1
"""Seconds that one count may take: before jobs and workers run, and while visitors and jobs use the same database."""

COUNTS = f"""
SET time_zone = '+00:00';
SET max_statement_time = {{patience}};
SELECT 'queue', (SELECT COUNT(*) FROM messenger_messages WHERE queue_name = 'email')
  - (SELECT COUNT(*) FROM messenger_messages WHERE queue_name = 'email' AND delivered_at >= '9999-12-31'),
  COALESCE(UNIX_TIMESTAMP((SELECT created_at FROM messenger_messages WHERE {QUEUED} ORDER BY id LIMIT 1)), 0);
SELECT 'messages', COUNT(*), COALESCE(UNIX_TIMESTAMP(MIN(scheduled_date)), 0) FROM (
  SELECT m.scheduled_date FROM message_queue m WHERE {due.MESSAGES} AND m.scheduled_date <= {due.NOW}
  LIMIT {MOST}) waiting;
SELECT 'events', COUNT(*), COALESCE(UNIX_TIMESTAMP(MIN(trigger_date)), 0) FROM (
  SELECT l.trigger_date FROM campaign_lead_event_log l JOIN campaigns c ON c.id = l.campaign_id
  WHERE {due.EVENTS} AND l.trigger_date <= {due.NOW} LIMIT {MOST}) waiting;
SELECT 'broadcasts', COUNT(DISTINCT email, contact), COALESCE(UNIX_TIMESTAMP(MIN(since)), 0) FROM (
  SELECT e.id AS email, l.id AS contact, GREATEST(
    COALESCE(e.publish_up, e.date_added, ll.date_added), ll.date_added) AS since FROM {PENDING}
  LIMIT {MOST}) waiting;
"""
SENT = """
SELECT COUNT(*) - (SELECT COUNT(*) FROM email_stats WHERE is_failed = 1 AND {since}) FROM (
  SELECT 1 FROM email_stats WHERE {since} LIMIT 1000000) found;
"""
"""Counts the mail sent since a time, a million at most."""
KINDS = ("queue", "messages", "events", "broadcasts")

TABLE = """CREATE TABLE IF NOT EXISTS mautic_ops_dropped (
  id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, batch BIGINT NOT NULL, dropped DATETIME NOT NULL,
  source VARCHAR(64) NOT NULL, row_id BIGINT UNSIGNED NOT NULL, content LONGTEXT NOT NULL, KEY (batch))
  DEFAULT CHARSET = utf8mb4;"""
WHY = "Dropped by the operators of this Mautic"
WITHDRAWN = "messenger_messages, withdrawn"
"""The source of mails to people who opted out or were erased: they are kept, but not brought back with the rest."""

DROPS: dict[str, tuple[str, str, str]] = {
    "messenger_messages": (QUEUED, "DELETE FROM messenger_messages WHERE id IN ({ids});", ""),
    # Marked as tried as often as allowed: it is never picked up again, but still counts as a message to the contact.
    "message_queue": (
        f"{due.MESSAGES.replace('m.', '')} AND scheduled_date <= {due.NOW}",
        "UPDATE message_queue SET attempts = max_attempts WHERE id IN ({ids});",
        "UPDATE message_queue t JOIN mautic_ops_dropped d ON d.row_id = t.id AND d.source = 'message_queue'"
        " SET t.attempts = JSON_VALUE(d.content, '$.attempts');",
    ),
    # As Mautic itself does when a contact leaves a campaign: the contact's history tells why.
    "campaign_lead_event_log": (
        "id IN (SELECT l.id FROM campaign_lead_event_log l JOIN campaigns c ON c.id = l.campaign_id"
        f" WHERE {due.EVENTS} AND l.trigger_date <= {due.NOW})",
        "REPLACE INTO campaign_lead_event_failed_log (log_id, date_added, reason)"
        f" SELECT id, {due.NOW}, '{WHY}' FROM campaign_lead_event_log WHERE id IN ({{ids}});"
        " UPDATE campaign_lead_event_log SET is_scheduled = 0 WHERE id IN ({ids});",
        f"DELETE f FROM campaign_lead_event_failed_log f JOIN mautic_ops_dropped d ON d.row_id = f.log_id"
        f" AND d.source = 'campaign_lead_event_log' WHERE f.reason = '{WHY}';"
        " UPDATE campaign_lead_event_log t JOIN mautic_ops_dropped d ON d.row_id = t.id"
        " AND d.source = 'campaign_lead_event_log' SET t.is_scheduled = 1;",
    ),
    "emails": (
        f"id IN (SELECT e.id FROM {PENDING})",
        "UPDATE emails SET is_published = 0 WHERE id IN ({ids});",
        "UPDATE emails t JOIN mautic_ops_dropped d ON d.row_id = t.id AND d.source = 'emails' SET t.is_published = 1;",
    ),
}
"""{table: (condition of waiting rows, statements that drop them, statements that bring them back)}.

Without the last, rows are inserted again. A segment email is unpublished, since no table lists its future recipients.
"""


def mail(request: Mapping[str, Any]) -> dict[str, Any]:
    """Count the mail that waits, and the mail sent since a time.

    Request: since? (epoch seconds). Returns kinds {kind: n}, waits (their sum), oldest (epoch seconds, 0: none), off,
    sent (0 without `since`).
    """
    since = int(request.get("since") or 0)
    asked = SENT.format(since=f"date_sent >= '1970-01-01' + INTERVAL {since} SECOND")
    sent = sql(asked, "mautic", force=True) if since else []
    return {**_counted(IN_SERVICE), "off": OFF.exists(), "sent": int(sent[0][0]) if sent else 0}


def release(request: Mapping[str, Any]) -> dict[str, Any]:
    """Send, drop or keep back waiting mail, or bring back dropped mail, which is then kept back.

    Request: choice? (send, drop, off, back), late?, batch? (the number under which dropped mail is kept), only? (bring
    back only this batch), unmute?, page?. Without a choice, mail is kept back if outbound mail is off already, or if
    some waits and no job has succeeded for `late` seconds. Safe to repeat: a batch that was dropped stays one batch.
    `unmute`: remove the marker that keeps jobs and workers from running, and start the workers. `page`: wait so many
    seconds at most for the login page. Returns choice, waits, oldest, kinds, dropped. Raises CtlError for an unknown
    choice, if the login page does not answer, and, with `page`, if the tenant is not closed.
    """
    choice, late, batch = request.get("choice") or "", int(request.get("late") or 0), int(request.get("batch") or 0)
    if choice not in ("", "send", "drop", "off", "back"):
        raise CtlError("`choice` is none of send, drop, off and back")
    await_systemd()
    start_database()
    counted = _counted()
    if not choice:
        # Mail that could not be counted in time may be the most of all.
        may_wait = counted["waits"] or "broadcasts" not in counted["kinds"]
        waits_late = may_wait and _last_worked() < time.time() - late
        choice = "off" if OFF.exists() or waits_late else "send"
    dropped = 0
    works = not (MUTE.exists() or CLOSED.exists())
    if choice in ("off", "back") or (choice == "drop" and works):
        # Before anything else: a worker would send what is being put back, or is about to be dropped.
        _hold()
    if choice == "back":
        _bring_back(int(request.get("only") or 0))
        counted = _counted()
    if choice == "drop":
        dropped = _drop(batch)
    if choice in ("send", "drop"):
        _let_go()
    if request.get("unmute"):
        MUTE.unlink(missing_ok=True)
        start_workers()
    if request.get("page"):
        wait_for_page({"seconds": request["page"]})
        if not CLOSED.exists():
            raise CtlError("it is open before its time")
    return {**counted, "choice": choice, "dropped": dropped}


def held() -> dict[str, Any] | None:
    """Return {since (epoch seconds), waits} if outbound mail is off, None if it is on."""
    if not OFF.exists():
        return None
    return {"since": int(OFF.stat().st_mtime), "waits": _counted(IN_SERVICE)["waits"]}


def _last_worked() -> float:
    """Return when a job last succeeded (0: never): some run each minute, but none while the tenant is closed or off."""
    return max((float(read_json(beat).get("last_success") or 0) for beat in BEATS.glob("*.json")), default=0.0)


def _counted(patience: int = UNHURRIED) -> dict[str, Any]:
    found = sql(COUNTS.format(patience=patience), "mautic", force=True)
    rows = {label: (int(n), int(float(oldest))) for label, n, oldest in found}
    kinds = {kind: rows[kind][0] for kind in KINDS if kind in rows}
    times = [oldest for n, oldest in rows.values() if n and oldest]
    return {"kinds": kinds, "waits": sum(kinds.values()), "oldest": min(times, default=0)}


def _drop(batch: int) -> int:
    """Move the waiting rows from Mautic's tables into the bot's; return how many the batch has.

    AT_ONCE rows at a time, so that nobody waits for long; dropped rows no longer match the condition.
    """
    sql(TABLE, "mautic")
    for table, (waits, drop, _) in DROPS.items():
        columns = [row[0] for row in sql(f"SHOW COLUMNS FROM {table};", "mautic", force=True)]
        if not columns:
            continue
        goes_on = True
        while goes_on:
            rows = [row[0] for row in sql(f"SELECT id FROM {table} WHERE {waits} LIMIT {AT_ONCE};", "mautic")]
            goes_on = len(rows) == AT_ONCE
            if ids := ",".join(rows):
                _keep(table, columns, ids, batch, table, drop)
    of_it = f"batch = {batch} AND source <> '{WITHDRAWN}'"
    return int(sql(f"SELECT COUNT(*) FROM mautic_ops_dropped WHERE {of_it};", "mautic")[0][0])


def keep_withdrawn(ids: Iterable[str], batch: int) -> None:
    """Remove mails that must not be sent from the queue, and keep them in the bot's table of dropped rows."""
    table = "messenger_messages"
    columns = [row[0] for row in sql(f"{TABLE} SHOW COLUMNS FROM {table};", "mautic")]
    _keep(table, columns, ",".join(ids), batch, WITHDRAWN, DROPS[table][1])


def _keep(table: str, columns: Iterable[str], ids: str, batch: int, source: str, drop: str) -> None:
    content = ", ".join(f"'{name}', `{name}`" for name in columns)
    sql(
        f"START TRANSACTION; INSERT INTO mautic_ops_dropped (batch, dropped, source, row_id, content)"
        f" SELECT {batch}, {due.NOW}, '{source}', id, JSON_OBJECT({content}) FROM {table}"
        f" WHERE id IN ({ids}); {drop.format(ids=ids)} COMMIT;",
        "mautic",
    )


def _bring_back(only: int = 0) -> None:
    """Put everything that was dropped, or only one batch, back where it waited."""
    if not sql("SHOW TABLES LIKE 'mautic_ops_dropped';", "mautic"):
        return
    which = f"source <> '{WITHDRAWN}'" + (f" AND batch = {only}" if only else "")
    chosen = f"(SELECT * FROM mautic_ops_dropped WHERE {which}) d"
    statements = ["START TRANSACTION;"]
    for table, (_, _, back) in DROPS.items():
        columns = [row[0] for row in sql(f"SHOW COLUMNS FROM {table};", "mautic", force=True)]
        if not columns:
            continue
        names = ", ".join(f"`{name}`" for name in columns)
        values = ", ".join(f"JSON_VALUE(content, '$.{name}')" for name in columns)
        statements.append(
            back.replace("mautic_ops_dropped d", chosen)
            or f"INSERT IGNORE INTO {table} ({names}) SELECT {values} FROM mautic_ops_dropped"
            f" WHERE source = '{table}' AND {which};"
        )
    sql(" ".join([*statements, f"DELETE FROM mautic_ops_dropped WHERE {which}; COMMIT;"]), "mautic")


def without_senders(crontab: str) -> str:
    """Return a crontab with the sending jobs commented out."""
    lines = rf"^(?=[^#\n].* mautic-cron \d+ \d+ (?:{'|'.join(SENDERS)})\b)"
    return re.sub(lines, COMMENTED, crontab, flags=re.MULTILINE)


def hold_back() -> None:
    """Turn outbound mail off, across reboots too: jobs and workers stop sending."""
    _hold()


def _hold() -> None:
    if not OFF.exists():
        write(OFF, "outbound mail is off\n")
    DROP_IN.parent.mkdir(exist_ok=True)
    write(DROP_IN, PAGE_HITS)
    write(CRONTAB, without_senders(CRONTAB.read_text()))
    systemctl("daemon-reload")
    # Only running workers: those of a closed or muted tenant stay stopped.
    systemctl("try-restart", "mautic-worker@*")
    end_senders()


def _let_go() -> None:
    if not OFF.exists() and not DROP_IN.exists():
        return
    DROP_IN.unlink(missing_ok=True)
    write(CRONTAB, CRONTAB.read_text().replace(COMMENTED, ""))
    systemctl("daemon-reload")
    systemctl("try-restart", "mautic-worker@*")
    # Removed last: while the marker is there, an interrupted run is repeated.
    OFF.unlink(missing_ok=True)
