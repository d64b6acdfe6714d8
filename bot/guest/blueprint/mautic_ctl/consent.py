# ruff: noqa: S608 - SQL is made of constants, numbers, and text that is quoted
"""`withdrawals`, `withdraw`: what people said that binds whoever mails them, and the same said in another copy.

Two things bind: an opt-out, which is a row of `lead_donotcontact` of any reason, and an erasure, which is a contact
that somebody deleted. Mautic deletes one and many contacts by the same code (`FormModel::deleteEntity`,
`deleteEntities`), and writes a row of `audit_log` for each. It also deletes the loser of two contacts that are merged,
with such a row: that is no erasure while the winner is there, as `contact_merge_records` tells. What
`mautic:maintenance:cleanup` deletes leaves no row, and is deleted again by its next run.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .access import end_requests
from .system import FPM, SEAL, CtlError, await_database, await_systemd, run, sql, sql_text, systemctl

PAGE = 2000
"""Rows of a kind that one answer has at most."""
COMMENT = 300
"""Characters of a comment."""
AT_ONCE = 200
"""Contacts that are deleted by one transaction, each with what hangs on it; and mails that are read at once."""
PATIENCE = 2.0
"""Seconds that requests at hand are waited for while the tenant is closed."""

UTC = "SET time_zone = '+00:00';"
MERGES = "contact_merge_records"
OPT_OUTS = """lead_donotcontact d JOIN leads l ON l.id = d.lead_id
  WHERE d.reason > 0 AND d.date_added >= FROM_UNIXTIME({since})"""
ERASURES = """audit_log a WHERE a.bundle = 'lead' AND a.object = 'lead' AND a.action = 'delete' AND a.object_id > 0
  AND a.date_added >= FROM_UNIXTIME({since})
  AND NOT EXISTS (SELECT 1 FROM leads l WHERE l.id = a.object_id)"""
NOT_MERGED = f" AND NOT EXISTS (SELECT 1 FROM {MERGES} m WHERE m.merged_id = a.object_id)"
OPT_OUT = ("row", "contact", "email", "born", "channel", "reason", "channel_id", "comments", "at")
# Hexadecimal: whatever a comment has in it, a row is a line.
OPT_OUT_ROWS = """SELECT 'opt_out', HEX(JSON_ARRAY(d.id, l.id, COALESCE(l.email, ''),
  FLOOR(COALESCE(UNIX_TIMESTAMP(l.date_added), 0)), d.channel, d.reason, IF(d.channel_id > 0, d.channel_id, NULL),
  LEFT(COALESCE(d.comments, ''), {most}), FLOOR(UNIX_TIMESTAMP(d.date_added)))) FROM {which}
  AND d.id > {after} ORDER BY d.id LIMIT {page};"""
ERASURE_ROWS = """SELECT 'erasure', HEX(JSON_ARRAY(a.object_id, FLOOR(UNIX_TIMESTAMP(MAX(a.date_added))))) FROM {which}
  AND a.object_id > {after} GROUP BY a.object_id ORDER BY a.object_id LIMIT {page};"""
COUNTS = """SELECT 'now', UNIX_TIMESTAMP(); SELECT 'contacts', COUNT(*) FROM leads;
  SELECT 'opt_outs', COUNT(*) FROM {opt_outs}; SELECT 'erasures', COUNT(DISTINCT a.object_id) FROM {erasures};"""

# Both get the collations of the columns that they are held against, so that these are looked up by their index.
SAID = """CREATE TEMPORARY TABLE {name} AS SELECT CAST(0 AS UNSIGNED) AS contact, l.email, CAST(0 AS SIGNED) AS born,
  d.channel, d.reason, d.channel_id, d.comments, CAST(0 AS SIGNED) AS at FROM leads l, lead_donotcontact d WHERE 0;"""
# The same row of before: its email, or where that was changed the second that it was added in.
MATCH = """INSERT INTO found SELECT l.id, l.email, s.born, s.channel, s.reason, s.channel_id, s.comments, s.at
  FROM said s JOIN leads l ON l.id = s.contact
  WHERE l.email = s.email OR (s.born > 0 AND FLOOR(UNIX_TIMESTAMP(l.date_added)) = s.born);
INSERT INTO found SELECT l.id, l.email, s.born, s.channel, s.reason, s.channel_id, s.comments, s.at
  FROM said s JOIN leads l ON l.email = s.email WHERE s.email <> '';"""
# Who unsubscribed stays so, as with Mautic itself.
LAY = """UPDATE lead_donotcontact d JOIN found f ON f.contact = d.lead_id AND f.channel = d.channel
  SET d.reason = f.reason, d.date_added = FROM_UNIXTIME(f.at), d.comments = f.comments
  WHERE d.reason <> 1 AND f.reason = 1;
SELECT 'laid', ROW_COUNT();
INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel, channel_id, comments)
  SELECT f.contact, FROM_UNIXTIME(MAX(f.at)), MIN(f.reason), f.channel, MAX(f.channel_id), MAX(f.comments) FROM found f
  WHERE NOT EXISTS (SELECT 1 FROM lead_donotcontact d WHERE d.lead_id = f.contact AND d.channel = f.channel)
  GROUP BY f.contact, f.channel;
SELECT 'laid', ROW_COUNT();
SELECT 'unknown', COUNT(*) FROM said s WHERE NOT EXISTS (SELECT 1 FROM found f
  WHERE f.channel = s.channel AND (f.contact = s.contact OR f.email = s.email));
SELECT 'email', HEX(email) FROM found WHERE channel = 'email' AND email <> '' GROUP BY email;"""
# What has a foreign key goes with its contact. Its row of the log lets the next rollback know.
ERASE = """START TRANSACTION;
INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, details, date_added, ip_address)
  SELECT 0, 'System', 'lead', 'lead', g.contact, 'delete', NULL, FROM_UNIXTIME(g.at), '127.0.0.1'
  FROM gone g JOIN leads l ON l.id = g.contact WHERE g.contact IN ({ids});
DELETE FROM lead_donotcontact WHERE lead_id IN ({ids});
{unlinked}
DELETE FROM leads WHERE id IN ({ids});
SELECT 'erased', ROW_COUNT();
COMMIT;"""
UNLINKED = {
    "sync_object_mapping": "internal_object_name = 'lead' AND internal_object_id",
    "sync_object_field_change_report": r"object_type = 'Mautic\\LeadBundle\\Entity\\Lead' AND object_id",
}
"""What Mautic deletes with a contact though no foreign key says so (`IntegrationsBundle`, onLeadPostDelete)."""
QUEUED = """SELECT id, HEX(body) FROM messenger_messages WHERE queue_name IN ('email', 'failed') AND id > {after}
  AND (delivered_at IS NULL OR delivered_at < '9999-12-31') ORDER BY id LIMIT {page};"""
ADDRESS = re.compile(r"[\w.!#$%&*+/?^{|}~'-]+@[\w.-]+\w")


def withdrawals(request: Mapping[str, Any]) -> dict[str, Any]:
    """Tell what was said since a time: how much, and a page of each kind after what was told before.

    `final`: the tenant has just been closed, and what its visitors have at hand comes to its end first.
    """
    since = int(request.get("since") or 0)
    opt_outs, erasures = (int(after) for after in request.get("after") or (0, 0))
    if request.get("final"):
        end_requests(PATIENCE)
        # Whatever is not answered by now never is.
        run("systemctl", "stop", FPM)
    merges = NOT_MERGED if sql(f"SHOW TABLES LIKE '{MERGES}';", "mautic") else ""
    said, erased = OPT_OUTS.format(since=since), ERASURES.format(since=since) + merges
    asked = [UTC]
    if request.get("count", True):
        asked.append(COUNTS.format(opt_outs=said, erasures=erased))
    if page := min(int(request.get("page") or 0), PAGE):
        asked.append(OPT_OUT_ROWS.format(which=said, after=opt_outs, page=page, most=COMMENT))
        asked.append(ERASURE_ROWS.format(which=erased, after=erasures, page=page))
    rows = sql(" ".join(asked), "mautic")
    counts = {name: int(value) for name, value in rows if name not in ("opt_out", "erasure")}
    return {
        **dict.fromkeys(("now", "contacts", "opt_outs", "erasures"), 0),
        **counts,
        "said": [_opt_out(value) for name, value in rows if name == "opt_out"],
        "erased": [
            dict(zip(("contact", "at"), _read(value), strict=True)) for name, value in rows if name == "erasure"
        ],
    }


def _read(value: str) -> list[Any]:
    found: list[Any] = json.loads(bytes.fromhex(value))
    return found


def _opt_out(value: str) -> dict[str, Any]:
    names = ("row", "contact", "email", "born", "channel", "reason", "channel_id", "comments", "at")
    return dict(zip(names, _read(value), strict=True))


def withdraw(request: Mapping[str, Any]) -> dict[str, Any]:
    """Say in this copy what was said in another: who opted out has, who was erased is no more. Again it adds nothing.

    Mails to either that wait in the queue are dropped, since nobody looks again before those are sent.
    """
    if not SEAL.exists():
        raise CtlError("it is open, and its contacts are not changed behind its users' backs")
    await_systemd()
    systemctl("start", "mariadb")
    await_database()
    said, erased = request.get("said") or [], request.get("erased") or []
    laid, unknown, addresses = _lay(said) if said else (0, 0, set())
    gone, theirs = _erase(erased) if erased else (0, set())
    mails = _drop_mails(addresses | theirs)
    return {"opt_outs": laid, "erasures": gone, "unknown": unknown, "mails": mails}


def _lay(said: Iterable[Mapping[str, Any]]) -> tuple[int, int, set[str]]:
    values = ", ".join(
        f"({int(one['contact'])}, {sql_text(one['email'])}, {int(one['born'])}, {sql_text(one['channel'])},"
        f" {int(one['reason'])}, {'NULL' if one['channel_id'] is None else int(one['channel_id'])},"
        f" {sql_text(one['comments'])}, {int(one['at'])})"
        for one in said
    )
    tables = SAID.format(name="said") + SAID.format(name="found")
    rows = sql(f"{UTC} {tables} INSERT INTO said VALUES {values}; {MATCH} {LAY}", "mautic")
    counted = [(name, int(value)) for name, value in rows if name != "email"]
    laid, unknown = (sum(n for name, n in counted if name == of) for of in ("laid", "unknown"))
    return laid, unknown, {_text(value) for name, value in rows if name == "email"}


def _erase(erased: Sequence[Mapping[str, Any]]) -> tuple[int, set[str]]:
    gone, addresses = 0, set()
    there = {row[0] for row in sql("SHOW TABLES LIKE 'sync_object_%';", "mautic")}
    for first in range(0, len(erased), AT_ONCE):
        part = erased[first : first + AT_ONCE]
        ids = ",".join(str(int(one["contact"])) for one in part)
        values = ", ".join(f"({int(one['contact'])}, {int(one['at'])})" for one in part)
        table = "CREATE TEMPORARY TABLE gone (contact BIGINT UNSIGNED PRIMARY KEY, at BIGINT NOT NULL);"
        theirs = f"SELECT 'email', HEX(email) FROM leads WHERE id IN ({ids}) AND email <> '';"
        insert = f"INSERT IGNORE INTO gone VALUES {values};"
        unlinked = " ".join(
            f"DELETE FROM {name} WHERE {UNLINKED[name]} IN ({ids});" for name in UNLINKED if name in there
        )
        rows = sql(f"{UTC} {theirs} {table} {insert} {ERASE.format(ids=ids, unlinked=unlinked)}", "mautic")
        addresses |= {_text(value) for name, value in rows if name == "email"}
        gone += sum(int(value) for name, value in rows if name == "erased")
    return gone, addresses


def _text(value: str) -> str:
    return bytes.fromhex(value).decode(errors="replace").lower()


def _drop_mails(addresses: set[str]) -> int:
    """Delete the mails in the queue that name one of these addresses; return how many.

    Mautic asks whether somebody opted out when it puts a mail there, and not when it sends it.
    """
    if not addresses or not sql("SHOW TABLES LIKE 'messenger_messages';", "mautic"):
        return 0
    dropped, after, goes_on = 0, 0, True
    while goes_on:
        rows = sql(QUEUED.format(after=after, page=AT_ONCE), "mautic")
        goes_on = len(rows) == AT_ONCE
        ids = [row[0] for row in rows if addresses & _named(bytes.fromhex(row[1]) if len(row) > 1 else b"")]
        if ids:
            sql(f"DELETE FROM messenger_messages WHERE id IN ({','.join(ids)});", "mautic")
        dropped, after = dropped + len(ids), int(rows[-1][0]) if rows else after
    return dropped


def _named(body: bytes) -> set[str]:
    """Return the addresses that a message names; Symfony writes one as base64 that is not UTF-8."""
    with suppress(ValueError):
        body = b64decode(body, validate=True)
    return {found.lower() for found in ADDRESS.findall(body.decode(errors="replace"))}
