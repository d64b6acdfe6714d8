# ruff: noqa: S608 - SQL is made of constants, numbers, and text that is quoted
"""`withdrawals`, `withdraw`: reads people's opt-outs and erasures, and applies them in another copy of the tenant.

Two things are binding: an opt-out, which is a row of `lead_donotcontact` with any reason, and an erasure, which is a
contact that somebody deleted. Mautic deletes one or many contacts by the same code (`FormModel::deleteEntity`,
`deleteEntities`), and writes a row of `audit_log` for each. When two contacts are merged, Mautic deletes the loser with
such a row too: according to `contact_merge_records` that is no erasure while the winner exists. What
`mautic:maintenance:cleanup` deletes leaves no row, and its next run deletes it again.

If a snapshot was restored in between, a contact's id may belong to somebody else in the other copy. So erased and
merged contacts are identified by the name that Mautic noted too (`Lead::getPrimaryIdentifier`: name, company, e-mail or
IP).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import outbound
from .access import end_requests
from .database import start_database
from .php import unserialized
from .recipients import ADDRESS, sent_to
from .system import CLOSED, FPM, CtlError, await_systemd, run, sql, sql_text

PAGE = 2000
"""Rows of a kind in one answer at most."""
COMMENT = 300
"""Characters of a comment at most."""
NAME = 200
"""Characters of a name that are compared."""
DETAILS = 2000
"""Characters that are read of the details of an audit row, which hold a name."""
AT_ONCE = 200
"""Contacts that are deleted in one transaction, each with its dependent rows; also mails that are read at once."""
PATIENCE = 2.0
"""Seconds to wait for the requests in progress when the tenant is closed."""

UTC = "SET time_zone = '+00:00';"
MERGES = "contact_merge_records"
OPT_OUTS = """lead_donotcontact d JOIN leads l ON l.id = d.lead_id
  WHERE d.reason > 0 AND d.date_added >= FROM_UNIXTIME({since})"""
ERASURES = """audit_log a WHERE a.bundle = 'lead' AND a.object = 'lead' AND a.action = 'delete' AND a.object_id > 0
  AND a.date_added >= FROM_UNIXTIME({since})
  AND NOT EXISTS (SELECT 1 FROM leads l WHERE l.id = a.object_id)"""
NOT_MERGED = f" AND NOT EXISTS (SELECT 1 FROM {MERGES} m WHERE m.merged_id = a.object_id)"
OPT_OUT = ("row", "contact", "email", "born", "channel", "reason", "channel_id", "comments", "at")
# Hexadecimal, so that a row is always one line, whatever its comment contains.
OPT_OUT_ROWS = """SELECT 'opt_out', HEX(JSON_ARRAY(d.id, l.id, COALESCE(l.email, ''),
  FLOOR(COALESCE(UNIX_TIMESTAMP(l.date_added), 0)), d.channel, d.reason, IF(d.channel_id > 0, d.channel_id, NULL),
  LEFT(COALESCE(d.comments, ''), {most}), FLOOR(UNIX_TIMESTAMP(d.date_added)))) FROM {which}
  AND d.id > {after} ORDER BY d.id LIMIT {page};"""
MERGED_ROWS = f"""SELECT 'merged', HEX(JSON_ARRAY(p.id, m.merged_id, LEFT(COALESCE(m.name, ''), {NAME})))
  FROM (SELECT d.id, l.id AS contact FROM {{which}} AND d.id > {{after}} ORDER BY d.id LIMIT {{page}}) p
  JOIN {MERGES} m ON m.contact_id = p.contact WHERE m.merged_id > 0;"""
ERASURE_ROWS = f"""SELECT 'erasure', HEX(JSON_ARRAY(e.contact, e.at,
  HEX(LEFT(COALESCE(d.details, ''), {DETAILS})))) FROM (SELECT a.object_id AS contact,
  FLOOR(UNIX_TIMESTAMP(MAX(a.date_added))) AS at, MAX(a.id) AS id FROM {{which}}
  AND a.object_id > {{after}} GROUP BY a.object_id ORDER BY a.object_id LIMIT {{page}}) e
  JOIN audit_log d ON d.id = e.id ORDER BY e.contact;"""
COUNTS = """SELECT 'now', UNIX_TIMESTAMP(); SELECT 'contacts', COUNT(*) FROM leads;
  SELECT 'opt_outs', COUNT(*) FROM {opt_outs}; SELECT 'erasures', COUNT(DISTINCT a.object_id) FROM {erasures};"""

# Both temporary tables get the collations of the columns that they are compared with, so that lookups use the indexes.
# `root`: the contact that opted out, into which `contact` may have been merged; `own`: the row is of that contact
# itself; `sure`: match by id alone.
SAID = """CREATE TEMPORARY TABLE {name} AS SELECT CAST(0 AS UNSIGNED) AS contact, l.email, CAST(0 AS SIGNED) AS born,
  d.channel, d.reason, d.channel_id, d.comments, CAST(0 AS SIGNED) AS at, CAST(0 AS UNSIGNED) AS root,
  CAST(0 AS SIGNED) AS own, CAST(0 AS SIGNED) AS sure FROM leads l, lead_donotcontact d WHERE 0;"""
FOUND = "l.id, l.email, s.born, s.channel, s.reason, s.channel_id, s.comments, s.at, s.root, s.own, s.sure"
# The id must belong to the same person: the same email or, if that was changed, the same second of creation. Contacts
# with the same email are matched too.
MATCH = f"""INSERT INTO found SELECT {FOUND} FROM said s JOIN leads l ON l.id = s.contact
  WHERE s.sure = 1 OR l.email = s.email OR (s.born > 0 AND FLOOR(UNIX_TIMESTAMP(l.date_added)) = s.born);
INSERT INTO found SELECT {FOUND} FROM said s JOIN leads l ON l.email = s.email WHERE s.email <> '';"""
# An unsubscription (reason 1) replaces other reasons and is never replaced, as in Mautic itself.
LAY = """UPDATE lead_donotcontact d JOIN found f ON f.contact = d.lead_id AND f.channel = d.channel
  SET d.reason = f.reason, d.date_added = FROM_UNIXTIME(f.at), d.comments = f.comments
  WHERE d.reason <> 1 AND f.reason = 1;
SELECT 'laid', ROW_COUNT();
INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel, channel_id, comments)
  SELECT f.contact, FROM_UNIXTIME(MAX(f.at)), MIN(f.reason), f.channel, MAX(f.channel_id), MAX(f.comments) FROM found f
  WHERE NOT EXISTS (SELECT 1 FROM lead_donotcontact d WHERE d.lead_id = f.contact AND d.channel = f.channel)
  GROUP BY f.contact, f.channel;
SELECT 'laid', ROW_COUNT();
SELECT 'unknown', COUNT(*) FROM said s WHERE s.own = 1 AND NOT EXISTS (SELECT 1 FROM found f
  WHERE f.channel = s.channel AND (f.root = s.root OR f.contact = s.contact OR f.email = s.email));
SELECT 'email', HEX(email) FROM found WHERE channel = 'email' AND email <> '' GROUP BY email;"""
# Rows with a foreign key are deleted with their contact. The audit row with its name lets the next rollback know.
ERASE = """START TRANSACTION;
INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, details, date_added, ip_address)
  SELECT 0, 'System', 'lead', 'lead', g.contact, 'delete', g.details, FROM_UNIXTIME(g.at), '127.0.0.1'
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
"""Rows that Mautic deletes with a contact though they have no foreign key (`IntegrationsBundle`, onLeadPostDelete)."""
QUEUED = """SELECT id, HEX(body) FROM messenger_messages WHERE queue_name IN ('email', 'failed') AND id > {after}
  AND (delivered_at IS NULL OR delivered_at < '9999-12-31') ORDER BY id LIMIT {page};"""
PERSON = ("email", "firstname", "lastname", "company")
NOBODY = "mautic.lead.lead.anonymous"
"""Mautic's name for a contact of which it knows nothing."""


def withdrawals(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the opt-outs and erasures since a time: their numbers, and one page of each.

    Request: since? (epoch seconds), after? [id of the last opt-out row, id of the last erased contact] of the page
    before, page? (rows, PAGE at most; 0: none), count? (default: true), final? (the tenant has just been closed: let
    the requests in progress finish first, then stop PHP). Returns now, contacts, opt_outs and erasures (0 without
    `count`), said (opt-outs: OPT_OUT, and `merged` if contacts were merged into this one), erased [{contact, at,
    name}].
    """
    since = int(request.get("since") or 0)
    opt_outs, erasures = (int(after) for after in request.get("after") or (0, 0))
    if request.get("final"):
        end_requests(PATIENCE)
        # Requests that are not answered by now never will be.
        run("systemctl", "stop", FPM)
    merges = NOT_MERGED if sql(f"SHOW TABLES LIKE '{MERGES}';", "mautic") else ""
    said, erased = OPT_OUTS.format(since=since), ERASURES.format(since=since) + merges
    asked = [UTC]
    if request.get("count", True):
        asked.append(COUNTS.format(opt_outs=said, erasures=erased))
    if page := min(int(request.get("page") or 0), PAGE):
        asked.append(OPT_OUT_ROWS.format(which=said, after=opt_outs, page=page, most=COMMENT))
        if merges:
            asked.append(MERGED_ROWS.format(which=said, after=opt_outs, page=page))
        asked.append(ERASURE_ROWS.format(which=erased, after=erasures, page=page))
    rows = sql(" ".join(asked), "mautic")
    counts = {name: int(value) for name, value in rows if name not in ("opt_out", "merged", "erasure")}
    found = [_opt_out(value) for name, value in rows if name == "opt_out"]
    by_row = {one["row"]: one for one in found}
    for row, contact, called in (_read(value) for name, value in rows if name == "merged"):
        if row in by_row:
            by_row[row].setdefault("merged", []).append({"contact": contact, "name": called})
    return {
        **dict.fromkeys(("now", "contacts", "opt_outs", "erasures"), 0),
        **counts,
        "said": found,
        "erased": [_erasure(value) for name, value in rows if name == "erasure"],
    }


def _read(value: str) -> list[Any]:
    found: list[Any] = json.loads(bytes.fromhex(value))
    return found


def _opt_out(value: str) -> dict[str, Any]:
    return dict(zip(OPT_OUT, _read(value), strict=True))


def _erasure(value: str) -> dict[str, Any]:
    contact, at, details = _read(value)
    return {"contact": contact, "at": at, "name": _noted(bytes.fromhex(details))}


def _noted(details: bytes) -> str:
    """Return the name in the details of an erasure's audit row, "" if there is none."""
    for read in (unserialized, json.loads):
        with suppress(ValueError, LookupError, RecursionError):
            found = read(details)
            name = found.get("name") if isinstance(found, dict) else None
            return name[:NAME] if isinstance(name, str) else ""
    return ""


def withdraw(request: Mapping[str, Any]) -> dict[str, Any]:
    """Apply opt-outs and erasures of another copy in this closed one; safe to repeat.

    Queued mails to these people are dropped, since Mautic does not check again before sending; they are kept under the
    number of the operation, `batch`. Request: said?, erased? (as `withdrawals` returns them), batch?. Returns opt_outs
    and erasures (how many were applied), unknown (opt-outs without a contact here), mails (dropped), and left: contacts
    that have the id of an erased one but may be somebody else, and are left alone. Raises CtlError for an open tenant.
    """
    if not CLOSED.exists():
        raise CtlError("it is open, and its contacts are not changed behind its users' backs")
    await_systemd()
    start_database()
    said, erased = request.get("said") or [], request.get("erased") or []
    laid, unknown, addresses = _lay(said) if said else (0, 0, set())
    gone, left, theirs = _erase(erased) if erased else (0, 0, set())
    mails = _drop_mails(addresses | theirs, int(request.get("batch") or 0))
    return {"opt_outs": laid, "erasures": gone, "unknown": unknown, "mails": mails, "left": left}


def _lay(said: Iterable[Mapping[str, Any]]) -> tuple[int, int, set[str]]:
    own = [(one, int(one["contact"]), one["email"], int(one["born"]), True, False) for one in said]
    values = ", ".join(
        f"({contact}, {sql_text(email)}, {born}, {sql_text(one['channel'])},"
        f" {int(one['reason'])}, {'NULL' if one['channel_id'] is None else int(one['channel_id'])},"
        f" {sql_text(one['comments'])}, {int(one['at'])}, {int(one['contact'])}, {int(is_own)}, {int(sure)})"
        for one, contact, email, born, is_own, sure in (*own, *_merged(said))
    )
    tables = SAID.format(name="said") + SAID.format(name="found")
    rows = sql(f"{UTC} {tables} INSERT INTO said VALUES {values}; {MATCH} {LAY}", "mautic")
    counted = [(name, int(value)) for name, value in rows if name != "email"]
    laid, unknown = (sum(n for name, n in counted if name == of) for of in ("laid", "unknown"))
    return laid, unknown, {_text(value) for name, value in rows if name == "email"}


def _merged(said: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int, str, int, bool, bool]]:
    """Return each opt-out again for every contact that was merged into its contact, as these may still exist here.

    The tuples are (opt-out, contact or 0, email or "", time of creation 0, is its own False, match by id alone).
    """
    merged = [(one, int(who["contact"]), str(who["name"])) for one in said for who in one.get("merged") or ()]
    people = _people({contact for _, contact, _ in merged})
    found = []
    for one, contact, name in merged:
        sure = contact in people and not _is_another(name, people[contact])
        found.append((one, contact if sure else 0, name if ADDRESS.fullmatch(name) else "", 0, False, sure))
    return found


def _people(contacts: Iterable[int]) -> dict[int, dict[str, str]]:
    """Return {id: fields} of the contacts that exist: PERSON, normalised by `_same`, and `ip`, separated by spaces."""
    if not (ids := ",".join(str(contact) for contact in contacts)):
        return {}
    there = {row[0] for row in sql("SHOW COLUMNS FROM leads;", "mautic")}
    columns = ", ".join(f"COALESCE({name}, '')" if name in there else "''" for name in PERSON)
    rows = sql(f"SELECT id, HEX(JSON_ARRAY({columns})) FROM leads WHERE id IN ({ids});", "mautic")
    people = {int(row[0]): dict(zip(PERSON, map(_same, _read(row[1])), strict=True)) for row in rows}
    for contact, address in sql(
        f"SELECT x.lead_id, i.ip_address FROM lead_ips_xref x JOIN ip_addresses i ON i.id = x.ip_id"
        f" WHERE x.lead_id IN ({ids});",
        "mautic",
        force=True,
    ):
        if int(contact) in people:
            people[int(contact)]["ip"] = f"{people[int(contact)].get('ip', '')} {address}"
    return people


def _same(text: str) -> str:
    """Normalise a text to compare it: case, spaces and characters that cannot be printed or decoded do not matter."""
    seen = "".join(one if one.isprintable() else " " for one in text.replace("\N{REPLACEMENT CHARACTER}", " "))
    return " ".join(seen.split()).casefold()[:NAME]


def _called(person: Mapping[str, str]) -> str:
    return f"{person['firstname']} {person['lastname']}".strip() or person["company"]


def _fits(name: str, person: Mapping[str, str]) -> bool:
    """Return whether a contact has the name that Mautic noted; False in doubt, as a match is deleted for good."""
    name, called = _same(name), _called(person)
    if person["email"] or called:
        return name in {person["email"], called} - {""}
    return name in {NOBODY, *person.get("ip", "").split()}


def _is_another(name: str, person: Mapping[str, str]) -> bool:
    """Return whether a contact is surely not the one that Mautic noted; one that got its name later may be the same."""
    name = _same(name)
    if not name or name == NOBODY or _fits(name, person):
        return False
    return bool(person["email"] if ADDRESS.fullmatch(name) else _called(person))


def _erase(erased: Sequence[Mapping[str, Any]]) -> tuple[int, int, set[str]]:
    gone, left, addresses = 0, 0, set()
    there = {row[0] for row in sql("SHOW TABLES LIKE 'sync_object_%';", "mautic")}
    for first in range(0, len(erased), AT_ONCE):
        part = erased[first : first + AT_ONCE]
        people = _people({int(one["contact"]) for one in part})
        fit = [
            one
            for one in part
            if int(one["contact"]) in people and _fits(str(one.get("name") or ""), people[int(one["contact"])])
        ]
        left += len(people.keys() - {int(one["contact"]) for one in fit})
        if not fit:
            continue
        ids = ",".join(str(int(one["contact"])) for one in fit)
        values = ", ".join(
            f"({int(one['contact'])}, {int(one['at'])}, {sql_text(_details(str(one['name'])))})" for one in fit
        )
        table = (
            "CREATE TEMPORARY TABLE gone (contact BIGINT UNSIGNED PRIMARY KEY, at BIGINT NOT NULL, details LONGTEXT);"
        )
        theirs = f"SELECT 'email', HEX(email) FROM leads WHERE id IN ({ids}) AND email <> '';"
        insert = f"INSERT IGNORE INTO gone VALUES {values};"
        unlinked = " ".join(
            f"DELETE FROM {name} WHERE {UNLINKED[name]} IN ({ids});" for name in UNLINKED if name in there
        )
        rows = sql(f"{UTC} {theirs} {table} {insert} {ERASE.format(ids=ids, unlinked=unlinked)}", "mautic")
        addresses |= {_text(value) for name, value in rows if name == "email"}
        gone += sum(int(value) for name, value in rows if name == "erased")
    return gone, left, addresses


def _details(name: str) -> str:
    """Return audit details with a name as Mautic writes them, in PHP's serialised form, as PHP reads the log."""
    name = name.replace("\0", "")
    return f'a:1:{{s:4:"name";s:{len(name.encode())}:"{name}";}}'


def _text(value: str) -> str:
    return bytes.fromhex(value).decode(errors="replace").lower()


def _drop_mails(addresses: set[str], batch: int) -> int:
    """Move queued mails to any of these addresses into the bot's table, where nothing sends them; return how many.

    Mautic checks opt-outs when it queues a mail, not when it sends it.
    """
    if not addresses or not sql("SHOW TABLES LIKE 'messenger_messages';", "mautic"):
        return 0
    dropped, after, goes_on = 0, 0, True
    while goes_on:
        rows = sql(QUEUED.format(after=after, page=AT_ONCE), "mautic")
        goes_on = len(rows) == AT_ONCE
        ids = [row[0] for row in rows if addresses & sent_to(bytes.fromhex(row[1]) if len(row) > 1 else b"")]
        if ids:
            outbound.keep_withdrawn(ids, batch)
        dropped, after = dropped + len(ids), int(rows[-1][0]) if rows else after
    return dropped
