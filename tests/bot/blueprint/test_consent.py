"""Opt-outs and erasures are read from a tenant's present database and repeated in an earlier copy of it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.guest.answers import decode
from bot.guest.blueprint.mautic_ctl import consent, outbound, recipients, system
from bot.guest.blueprint.mautic_ctl.system import CtlError
from tests.support.large_tenant import LargeTenant

UPGRADE = 1_790_000_000
"""The moment since which the two databases differ, in epoch seconds."""
PEOPLE = {1: "ann@x.test", 2: "ben@x.test", 3: "cy@x.test", 4: "", 5: "ed@x.test", 6: "flo@x.test"}
ODD = "a\ttab, a\nline, \\ and 'quotes' \N{SNOWMAN}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeTenant]:
    made = LargeTenant(tmp_path_factory.mktemp("mariadb"), contacts=40, buffer_pool="32M")
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _asked_there(server: LargeTenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(system.ENVIRONMENT, "HOME", str(server.home))
    monkeypatch.setattr(consent, "CLOSED", tmp_path / "sealed")
    server.sql("DROP TABLE IF EXISTS mautic_ops_dropped;")
    (tmp_path / "sealed").touch()
    for done_elsewhere in ("await_systemd", "start_database"):
        monkeypatch.setattr(consent, done_elsewhere, lambda *_: None)


@pytest.fixture
def present(server: LargeTenant) -> Iterator[LargeTenant]:
    """The database of the present container; a test that calls `earlier` turns it into that of the copy."""
    earlier(server)
    yield server
    server.sql(f"DROP TABLE IF EXISTS {consent.MERGES};")


def earlier(server: LargeTenant) -> None:
    """Reset the database to its state at the upgrade."""
    tables = ("lead_donotcontact", "audit_log", "messenger_messages", "leads")
    server.sql(" ".join(f"DELETE FROM {table};" for table in tables))
    people = ", ".join(f"({id}, '2026-01-0{id}', '{email}')" for id, email in PEOPLE.items())
    server.sql(f"INSERT INTO leads (id, date_added, email) VALUES {people};")
    server.sql(
        "INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel) VALUES (5, '2026-02-01', 2, 'email');"
    )


def opt_out(server: LargeTenant, contact: int, reason: int = 1, channel: str = "email", comments: str = "") -> None:
    server.sql(
        "INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel, channel_id, comments) VALUES"
        f" ({contact}, FROM_UNIXTIME({UPGRADE + 60}), {reason}, '{channel}', 7, {system.sql_text(comments)});"
    )


def erase(server: LargeTenant, *contacts: int, details: str | None = None) -> None:
    """Delete contacts as Mautic does: each gets an audit row with its name."""
    for contact in contacts:
        ((first, last, email),) = server.sql(
            f"SELECT COALESCE(firstname, ''), COALESCE(lastname, ''), email FROM leads WHERE id = {contact};"
        )
        name = f"{first} {last}".strip() or email or "mautic.lead.lead.anonymous"
        noted = serialised({"name": name}).decode() if details is None else details
        server.sql(
            "INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, details, date_added,"
            f" ip_address) VALUES (1, 'a', 'lead', 'lead', {contact}, 'delete', {system.sql_text(noted)},"
            f" FROM_UNIXTIME({UPGRADE + 90}), '::1'); DELETE FROM leads WHERE id = {contact};"
        )


def merge(server: LargeTenant, winner: int, loser: int, name: str) -> None:
    """Merge contacts as Mautic does: a row links the loser to the winner, and the loser is deleted as if erased."""
    server.sql(
        f"CREATE TABLE IF NOT EXISTS {consent.MERGES} (id INT AUTO_INCREMENT PRIMARY KEY,"
        " contact_id BIGINT UNSIGNED NOT NULL, date_added DATETIME NOT NULL, merged_id INT NOT NULL, name VARCHAR(191),"
        " FOREIGN KEY (contact_id) REFERENCES leads (id) ON DELETE CASCADE);"
        f"INSERT INTO {consent.MERGES} (contact_id, date_added, merged_id, name)"
        f" VALUES ({winner}, UTC_TIMESTAMP(), {loser}, {system.sql_text(name)});"
    )
    erase(server, loser)


class Php(dict[Any, Any]):
    """A PHP object; `seen`: it is a back reference to the value of that number, which was serialised before it."""

    def __init__(self, name: str, properties: dict[Any, Any], seen: int = 0) -> None:
        super().__init__(properties)
        self.name = name
        self.seen = seen


def serialised(value: Any) -> bytes:
    """Return what PHP's `serialize` writes."""
    if value is None:
        return b"N;"
    if isinstance(value, bool):
        return b"b:%d;" % value
    if isinstance(value, int):
        return b"i:%d;" % value
    if isinstance(value, str):
        return b's:%d:"%s";' % (len(value.encode()), value.encode())
    if isinstance(value, Php) and value.seen:
        return b"r:%d;" % value.seen
    if isinstance(value, list):
        value = dict(enumerate(value))
    inside = b"".join(serialised(key) + serialised(one) for key, one in value.items())
    if isinstance(value, Php):
        return b'O:%d:"%s":%d:{%s}' % (len(value.name), value.name.encode(), len(value), inside)
    return b"a:%d:{%s}" % (len(value), inside)


MIME, MAILER = "Symfony\\Component\\Mime\\", "Symfony\\Component\\Mailer\\"


def address(text: str) -> Php:
    kind = f"{MIME}Address"
    return Php(kind, {f"\0{kind}\0address": text, f"\0{kind}\0name": ""})


def queued(
    fields: dict[str, str], text: str = "", recipients: str = "", metadata: str = "", kind: str = "SendEmailMessage"
) -> bytes:
    """Return the body of a queued message with a mail of Mautic's, as Symfony's `PhpSerializer` writes it."""
    header, headers = f"{MIME}Header\\MailboxListHeader", f"{MIME}Header\\Headers"
    lists = {
        name: [Php(header, {f"\0{header}\0addresses": [address(one) for one in of.split()], "\0*\0name": name})]
        for name, of in fields.items()
    }
    of_all = Php(headers, {f"\0{headers}\0headers": lists, f"\0{headers}\0lineLength": 76})
    email = [text, "utf-8", f"<p>{text}</p>", "utf-8", [], [of_all, None]]
    mail = Php("Mautic\\EmailBundle\\Mailer\\Message\\MauticMessage", dict(enumerate([{}, "hash", email])))
    if metadata:
        mail[0] = {metadata: {"name": "x", "emailId": 3}}
    sent, envelope, of = f"{MAILER}Messenger\\{kind}", f"{MAILER}Envelope", None
    if recipients:
        of = Php(
            envelope,
            {
                f"\0{envelope}\0sender": address("ann@x.test"),
                f"\0{envelope}\0recipients": [address(one) for one in recipients.split()],
            },
        )
    whole = "Symfony\\Component\\Messenger\\Envelope"
    message = Php(sent, {f"\0{sent}\0message": mail, f"\0{sent}\0envelope": of})
    return slashed(serialised(Php(whole, {f"\0{whole}\0stamps": {}, f"\0{whole}\0message": message})))


def slashed(text: bytes) -> bytes:
    """Escape a text as PHP's `addslashes` does."""
    for one, by in ((b"\\", b"\\\\"), (b"'", b"\\'"), (b'"', b'\\"'), (b"\0", b"\\0")):
        text = text.replace(one, by)
    return text


def queue(server: LargeTenant, *bodies: bytes) -> None:
    values = ", ".join(f"(X'{one.hex()}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())" for one in bodies)
    server.sql(f"INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES {values};")


def left(server: LargeTenant) -> set[bytes]:
    return {bytes.fromhex(row[0]) for row in server.sql("SELECT HEX(body) FROM messenger_messages;")}


def told(**asked: Any) -> dict[str, Any]:
    """Return the answer of `withdrawals` in the shape that the bot accepts."""

    answer = {"ok": True, **consent.withdrawals({"since": UPGRADE, "page": 100, **asked})}
    return decode("t", "withdrawals", json.dumps(answer).encode())


def rows(server: LargeTenant) -> set[tuple[str, ...]]:
    return {tuple(row) for row in server.sql("SELECT lead_id, channel, reason FROM lead_donotcontact;")}


def test_only_opt_outs_and_erasures_since_the_upgrade_are_reported(present: LargeTenant) -> None:
    opt_out(present, 1, comments=ODD)
    opt_out(present, 2, reason=3, channel="sms")
    erase(present, 3)
    found = told()
    assert (found["contacts"], found["opt_outs"], found["erasures"]) == (5, 2, 1)
    first = found["said"][0]
    assert (first["contact"], first["email"], first["channel"], first["reason"]) == (1, "ann@x.test", "email", 1)
    assert (first["channel_id"], first["comments"], first["at"]) == (7, ODD, UPGRADE + 60)
    assert found["erased"] == [{"contact": 3, "at": UPGRADE + 90, "name": "cy@x.test"}]
    assert told(since=UPGRADE + 80)["said"] == []
    assert told(since=UPGRADE + 91)["erased"] == []


def test_a_page_continues_where_the_previous_one_ended(present: LargeTenant) -> None:
    for contact in (1, 2, 4):
        opt_out(present, contact)
    erase(present, 3, 6)
    seen: list[tuple[int, int]] = []
    after = (0, 0)
    for _ in range(3):
        page = told(page=1, after=after, count=False)
        assert page["opt_outs"] == 0, "they are counted once"
        seen.append((*(one["contact"] for one in page["said"]), *(one["contact"] for one in page["erased"])))
        after = (
            max([one["row"] for one in page["said"]], default=after[0]),
            max([one["contact"] for one in page["erased"]], default=after[1]),
        )
    assert seen == [(1, 3), (2, 6), (4,)]


def test_a_merged_contact_counts_as_erased_only_if_the_winner_was_erased(present: LargeTenant) -> None:
    merge(present, 2, 1, "ann@x.test")
    assert told()["erased"] == []
    erase(present, 2)
    assert [one["contact"] for one in told()["erased"]] == [1, 2]


def test_an_opt_out_is_repeated_in_the_copy_once_and_a_bounce_does_not_replace_it(present: LargeTenant) -> None:
    opt_out(present, 1, comments=ODD)
    opt_out(present, 2, reason=3, channel="sms")
    present.sql(
        f"UPDATE lead_donotcontact SET reason = 1, date_added = FROM_UNIXTIME({UPGRADE + 5}) WHERE lead_id = 5;"
    )
    page = told()
    earlier(present)
    assert consent.withdraw(page) == {"opt_outs": 3, "erasures": 0, "unknown": 0, "mails": 0, "left": 0}
    assert rows(present) == {("1", "email", "1"), ("2", "sms", "3"), ("5", "email", "1")}
    ((comment,),) = present.sql("SELECT HEX(comments) FROM lead_donotcontact WHERE lead_id = 1;")
    assert bytes.fromhex(comment).decode() == ODD
    assert consent.withdraw(page) == {"opt_outs": 0, "erasures": 0, "unknown": 0, "mails": 0, "left": 0}
    bounced = {**page, "said": [{**one, "reason": 2} for one in page["said"]]}
    consent.withdraw(bounced)
    assert rows(present) == {("1", "email", "1"), ("2", "sms", "3"), ("5", "email", "1")}


def test_a_contact_is_found_after_a_change_of_address_or_a_new_entry(present: LargeTenant) -> None:
    present.sql("UPDATE leads SET email = 'ann@new.test' WHERE id = 1;")
    opt_out(present, 1)
    present.sql("INSERT INTO leads (id, date_added, email) VALUES (70, UTC_TIMESTAMP(), 'BEN@x.test');")
    opt_out(present, 70)
    present.sql("INSERT INTO leads (id, date_added, email) VALUES (71, UTC_TIMESTAMP(), 'new@x.test');")
    opt_out(present, 71)
    opt_out(present, 4)
    page = told()
    earlier(present)
    done = consent.withdraw(page)
    assert rows(present) == {("1", "email", "1"), ("2", "email", "1"), ("4", "email", "1"), ("5", "email", "2")}
    assert (done["opt_outs"], done["unknown"]) == (3, 1), "the one that came after the upgrade is not in the copy"


def test_another_contact_with_the_same_id_is_left_alone(present: LargeTenant) -> None:
    opt_out(present, 1)
    page = told()
    earlier(present)
    present.sql("UPDATE leads SET email = 'somebody@else.test', date_added = '2025-05-05' WHERE id = 1;")
    assert consent.withdraw(page)["unknown"] == 1
    assert rows(present) == {("5", "email", "2")}


def test_an_erasure_is_repeated_in_the_copy_with_dependent_rows_and_an_audit_row(
    present: LargeTenant,
) -> None:
    erase(present, 2, 5)
    page = told()
    earlier(present)
    present.sql("INSERT INTO lead_lists_leads (leadlist_id, lead_id, date_added) VALUES (1, 2, UTC_TIMESTAMP());")
    assert consent.withdraw(page)["erasures"] == 2
    assert {row[0] for row in present.sql("SELECT id FROM leads;")} == {"1", "3", "4", "6"}
    assert rows(present) == set()
    assert present.sql("SELECT * FROM lead_lists_leads WHERE lead_id = 2;") == []
    assert [one["contact"] for one in told()["erased"]] == [2, 5]
    assert consent.withdraw(page)["erasures"] == 0
    assert present.sql("SELECT COUNT(*) FROM audit_log;") == [["2"]]


def test_an_erasure_deletes_integration_rows_of_that_contact_only(present: LargeTenant) -> None:
    present.sql(
        "CREATE TABLE sync_object_mapping (id INT AUTO_INCREMENT PRIMARY KEY, internal_object_name VARCHAR(191),"
        " internal_object_id INT);"
        "CREATE TABLE sync_object_field_change_report (id INT AUTO_INCREMENT PRIMARY KEY, object_type VARCHAR(191),"
        " object_id INT);"
    )
    try:
        erase(present, 2)
        page = told()
        earlier(present)
        entity = r"'Mautic\\LeadBundle\\Entity\\Lead'"
        present.sql(
            "INSERT INTO sync_object_mapping VALUES (1, 'lead', 2), (2, 'company', 2), (3, 'lead', 1);"
            f"INSERT INTO sync_object_field_change_report VALUES (1, {entity}, 2), (2, 'other', 2), (3, {entity}, 1);"
        )
        consent.withdraw(page)
        for table in consent.UNLINKED:
            assert present.sql(f"SELECT id FROM {table} ORDER BY id;") == [["2"], ["3"]], table
    finally:
        present.sql("DROP TABLE sync_object_mapping, sync_object_field_change_report;")


def test_only_mail_queued_for_withdrawn_contacts_is_dropped(present: LargeTenant) -> None:
    opt_out(present, 1)
    opt_out(present, 2, channel="sms")
    erase(present, 3)
    page = told()
    earlier(present)
    other = r"""O:36:\"Symfony\\Component\\Mailer\\SentMail\":1:{s:7:\"address\";s:10:\"ANN@x.test\";}"""
    bodies = (other, '{"to":"ben@x.test"}', "eyJ0byI6ImN5QHgudGVzdCJ9", '{"to":"joann@x.test"}', "x" * 50_000)
    values = ", ".join(f"({system.sql_text(body)}, '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())" for body in bodies)
    present.sql(
        f"INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES {values};"
    )
    assert consent.withdraw(page)["mails"] == 2
    left = [row[0][:20] for row in present.sql("SELECT body FROM messenger_messages ORDER BY id;")]
    assert left == ['{"to":"ben@x.test"}', '{"to":"joann@x.test"', "x" * 20]


def test_mail_from_a_withdrawn_address_is_not_mail_to_it(present: LargeTenant) -> None:
    """Somebody who tries the unsubscribe link often has the address that all of the client's mail is sent from."""
    opt_out(present, 1)
    page = told()
    earlier(present)
    of = {"from": "ann@x.test", "reply-to": "ann@x.test", "sender": "ann@x.test"}
    to_others = {
        queued({**of, "to": "ben@x.test"}, text="Write to ann@x.test, or to: ann@x.test"),
        b64encode(queued({**of, "to": "cy@x.test"}) + b"\xff"),
        queued(of, recipients="flo@x.test"),
        queued({**of, "to": "ben@x.test"}, kind="Other"),
        b"From: Ann <ann@x.test>\r\nTo: ben@x.test\r\n\r\nHello",
        queued({**of, "to": "ben@x.test"}, text="ann@x.test", kind="EmailHitNotification"),
    }
    to_them = {
        queued({**of, "to": "ANN@x.test"}),
        queued({"from": "ben@x.test", "to": "cy@x.test ann@x.test"}),
        queued({"from": "ben@x.test", "to": "cy@x.test", "cc": "flo@x.test", "bcc": "ann@x.test"}),
        queued({**of, "to": "cy@x.test"}, recipients="ann@x.test"),
        queued({**of, "to": "cy@x.test"}, metadata="ann@x.test"),
        b64encode(queued({**of, "to": "ann@x.test"})),
        b"From: Ben <ben@x.test>\r\nTo: ann@x.test\r\n\r\nHello",
    }
    queue(present, *to_others, *to_them)
    assert consent.withdraw(page)["mails"] == len(to_them)
    assert left(present) == to_others


def test_a_back_reference_to_an_address_is_resolved() -> None:
    ann = address("ann@x.test")
    header = Php(f"{MIME}Header\\MailboxListHeader", {"addresses": [Php("", {}, seen=8)]})
    headers = Php(f"{MIME}Header\\Headers", {"headers": {"to": [header]}})
    mail = Php(f"{MIME}Message", dict(enumerate([headers, None])))
    sent = Php(f"{MAILER}Messenger\\SendEmailMessage", {"envelope": None, "message": mail})
    # Its number, 8, counts the envelope, the stamps, two strings, a flag, a list, its null and the address itself.
    stamps = {"a": "x", "b": "y", "c": True, "d": [None, ann]}
    whole = serialised(Php("Symfony\\Component\\Messenger\\Envelope", {"stamps": stamps, "message": sent}))
    assert recipients.sent_to(slashed(whole)) == {"ann@x.test"}


def test_an_address_with_an_apostrophe_is_read(present: LargeTenant) -> None:
    name = "UPDATE leads SET email = 'o\\'brien@x.test' WHERE id = 2;"
    present.sql(name)
    opt_out(present, 2)
    page = told()
    earlier(present)
    present.sql(name)
    kept = queued({"from": "ann@x.test", "to": "brien@x.test"})
    plain = b'{to;s:14:\\"o\\\'brien@x.test\\";}'
    queue(present, queued({"from": "ann@x.test", "to": "o'brien@x.test"}), plain, b"to: 'o\\'brien@x.test'", kept)
    assert consent.withdraw(page)["mails"] == 3
    assert left(present) == {kept}


def test_mail_dropped_for_consent_is_kept_and_not_brought_back_with_the_rest(present: LargeTenant) -> None:
    opt_out(present, 1)
    page = told()
    earlier(present)
    body = queued({"from": "ben@x.test", "to": "ann@x.test"}, text="it's")
    queue(present, body, b"to: cy@x.test")
    consent.withdraw({**page, "batch": 17})
    ((batch, content),) = present.sql("SELECT batch, HEX(content) FROM mautic_ops_dropped;")
    assert (batch, json.loads(bytes.fromhex(content))["body"]) == ("17", body.decode())
    ((others,),) = present.sql("SELECT source FROM mautic_ops_dropped;")
    outbound._drop(17)
    dropped = "SELECT COUNT(*) FROM mautic_ops_dropped WHERE source"
    assert outbound._drop(17) == int(present.sql(f"{dropped} <> '{others}';")[0][0])
    outbound._bring_back(17)
    outbound._bring_back()
    assert left(present) == {b"to: cy@x.test"}
    assert present.sql("SELECT batch FROM mautic_ops_dropped;") == [["17"]]


def test_another_contact_with_the_id_of_an_erased_one_is_left_alone_and_counted(present: LargeTenant) -> None:
    """An older snapshot was restored in between, and the present container gave the id to somebody else."""
    new = "INSERT INTO leads (id, date_added, email) VALUES (6, '2026-09-22 10:00:00', 'spam@bot.test');"
    present.sql(f"DELETE FROM leads WHERE id = 6; {new}")
    erase(present, 6)
    erase(present, 2, details="a:0:{}")
    erase(present, 3, details="")
    erase(present, 5)
    page = told()
    earlier(present)
    done = consent.withdraw(page)
    assert (done["erasures"], done["left"]) == (1, 3)
    assert {row[0] for row in present.sql("SELECT id FROM leads;")} == {"1", "2", "3", "4", "6"}


def test_an_erased_contact_is_identified_by_any_name_that_mautic_notes(present: LargeTenant) -> None:
    known = "UPDATE leads SET firstname = 'Ann', lastname = 'O\\'Neil \N{SNOWMAN}' WHERE id = 1;"
    ip = "REPLACE INTO ip_addresses (id, ip_address) VALUES (77, '192.0.2.7');INSERT INTO lead_ips_xref VALUES (7, 77);"
    nameless = "INSERT INTO leads (id, date_added) VALUES (7, '2026-01-07');"
    present.sql(known + nameless + ip)
    erase(present, 1, 2, 4)
    erase(present, 7, details=json.dumps({"name": "192.0.2.7"}))
    page = told()
    earlier(present)
    present.sql(known + nameless + ip)
    assert consent.withdraw(page)["erasures"] == 4
    assert [one["name"] for one in told()["erased"]] == [one["name"] for one in page["erased"]]


def test_an_opt_out_applies_to_contacts_that_were_merged_into_that_one(present: LargeTenant) -> None:
    present.sql("UPDATE leads SET firstname = 'Cy', lastname = 'Lee' WHERE id = 3;")
    merge(present, 2, 1, "ann@x.test")
    merge(present, 2, 3, "Cy Lee")
    merge(present, 2, 4, "mautic.lead.lead.anonymous")
    opt_out(present, 2)
    page = told()
    earlier(present)
    queue(present, queued({"from": "ben@x.test", "to": "ann@x.test"}))
    assert consent.withdraw(page) == {"opt_outs": 4, "erasures": 0, "unknown": 0, "mails": 1, "left": 0}
    assert rows(present) == {(str(one), "email", "1") for one in (1, 2, 3, 4)} | {("5", "email", "2")}
    assert consent.withdraw(page)["opt_outs"] == 0


def test_another_contact_with_the_id_of_a_merged_one_is_not_opted_out(present: LargeTenant) -> None:
    merge(present, 2, 1, "ann@x.test")
    merge(present, 2, 3, "Cy Lee")
    opt_out(present, 2)
    page = told()
    earlier(present)
    present.sql("UPDATE leads SET email = 'other@x.test' WHERE id = 1; UPDATE leads SET email = 'b' WHERE id = 2;")
    present.sql("UPDATE leads SET firstname = 'Else' WHERE id = 3; UPDATE leads SET email = 'ANN@x.test' WHERE id = 6;")
    present.sql("UPDATE leads SET date_added = '2025-05-05' WHERE id = 2;")
    done = consent.withdraw(page)
    assert rows(present) == {("6", "email", "1"), ("5", "email", "2")}, "contact 6 has the address of a merged contact"
    assert (done["opt_outs"], done["unknown"]) == (1, 0)


def test_all_of_a_long_queue_is_read(present: LargeTenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "AT_ONCE", 3)
    erase(present, 1, 2, 3, 5)
    page = told()
    earlier(present)
    present.sql(
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)"
        " SELECT IF(seq = 8, '{\"to\":\"ed@x.test\"}', 'x'), '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP()"
        " FROM seq_1_to_9;"
    )
    assert consent.withdraw(page) == {"opt_outs": 0, "erasures": 4, "unknown": 0, "mails": 1, "left": 0}


def test_an_open_tenant_is_not_changed(present: LargeTenant) -> None:
    consent.CLOSED.unlink()
    with pytest.raises(CtlError, match="it is open"):
        consent.withdraw({"said": [], "erased": [{"contact": 1, "at": UPGRADE}]})
    assert len(present.sql("SELECT id FROM leads;")) == 6


def test_hostile_text_in_a_row_stays_a_value(present: LargeTenant) -> None:
    """Whatever the other container sends goes into a database of the same client, as text and numbers only."""
    opt_out(present, 1)
    page = told()
    evil = "x'); DROP TABLE leads; -- \\"
    for name in ("email", "channel", "comments"):
        consent.withdraw({"said": [{**page["said"][0], name: evil}], "erased": []})
    assert len(present.sql("SELECT id FROM leads;")) == 6
    with pytest.raises(ValueError, match="invalid literal"):
        consent.withdraw({"said": [], "erased": [{"contact": "1 OR 1", "at": 0}]})
