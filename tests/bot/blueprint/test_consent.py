"""Who opted out, and who was erased: read in one database of a tenant, and said again in an earlier one."""

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
"""When the two parted."""
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
    for done_elsewhere in ("await_systemd", "systemctl", "await_database"):
        monkeypatch.setattr(consent, done_elsewhere, lambda *_: None)


@pytest.fixture
def present(server: LargeTenant) -> Iterator[LargeTenant]:
    """The database of the present container, which is that of the copy too once a test says `earlier`."""
    earlier(server)
    yield server
    server.sql(f"DROP TABLE IF EXISTS {consent.MERGES};")


def earlier(server: LargeTenant) -> None:
    """Be as at the upgrade."""
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
    """As Mautic does: each contact that goes has its row, with what it is called."""
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
    """As Mautic does: the loser has a row by which the winner is known, and goes as one that is erased."""
    server.sql(
        f"CREATE TABLE IF NOT EXISTS {consent.MERGES} (id INT AUTO_INCREMENT PRIMARY KEY,"
        " contact_id BIGINT UNSIGNED NOT NULL, date_added DATETIME NOT NULL, merged_id INT NOT NULL, name VARCHAR(191),"
        " FOREIGN KEY (contact_id) REFERENCES leads (id) ON DELETE CASCADE);"
        f"INSERT INTO {consent.MERGES} (contact_id, date_added, merged_id, name)"
        f" VALUES ({winner}, UTC_TIMESTAMP(), {loser}, {system.sql_text(name)});"
    )
    erase(server, loser)


class Php(dict[Any, Any]):
    """An object of PHP's; `seen`: it stands there by the number of another, as one that was written before does."""

    def __init__(self, name: str, properties: dict[Any, Any], seen: int = 0) -> None:
        super().__init__(properties)
        self.name = name
        self.seen = seen


def serialised(value: Any) -> bytes:
    """Write what PHP's `serialize` writes."""
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
    """Return a message as Symfony puts it there: `PhpSerializer`, of a mail of Mautic's."""
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
    """Do as PHP's `addslashes`."""
    for one, by in ((b"\\", b"\\\\"), (b"'", b"\\'"), (b'"', b'\\"'), (b"\0", b"\\0")):
        text = text.replace(one, by)
    return text


def queue(server: LargeTenant, *bodies: bytes) -> None:
    values = ", ".join(f"(X'{one.hex()}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())" for one in bodies)
    server.sql(f"INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES {values};")


def left(server: LargeTenant) -> set[bytes]:
    return {bytes.fromhex(row[0]) for row in server.sql("SELECT HEX(body) FROM messenger_messages;")}


def told(**asked: Any) -> dict[str, Any]:
    """What is told, in the shape that the bot takes it in."""

    answer = {"ok": True, **consent.withdrawals({"since": UPGRADE, "page": 100, **asked})}
    return decode("t", "withdrawals", json.dumps(answer).encode())


def rows(server: LargeTenant) -> set[tuple[str, ...]]:
    return {tuple(row) for row in server.sql("SELECT lead_id, channel, reason FROM lead_donotcontact;")}


def test_what_was_said_since_is_told_and_nothing_of_before(present: LargeTenant) -> None:
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


def test_a_page_goes_on_where_the_one_before_ended(present: LargeTenant) -> None:
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


def test_a_contact_that_was_merged_into_another_is_not_erased_unless_that_one_is(present: LargeTenant) -> None:
    merge(present, 2, 1, "ann@x.test")
    assert told()["erased"] == []
    erase(present, 2)
    assert [one["contact"] for one in told()["erased"]] == [1, 2]


def test_it_is_said_in_the_copy_once_and_who_unsubscribed_stays_so(present: LargeTenant) -> None:
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


def test_one_whose_address_changed_or_who_came_again_is_found(present: LargeTenant) -> None:
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


def test_another_contact_with_the_number_is_left_alone(present: LargeTenant) -> None:
    opt_out(present, 1)
    page = told()
    earlier(present)
    present.sql("UPDATE leads SET email = 'somebody@else.test', date_added = '2025-05-05' WHERE id = 1;")
    assert consent.withdraw(page)["unknown"] == 1
    assert rows(present) == {("5", "email", "2")}


def test_who_was_erased_is_erased_in_the_copy_with_what_hangs_on_them_and_the_next_copy_can_know(
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


def test_what_integrations_know_of_who_was_erased_goes_too_and_of_no_other(present: LargeTenant) -> None:
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


def test_mail_that_waits_for_them_is_dropped_and_no_other(present: LargeTenant) -> None:
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


def test_mail_from_them_is_none_to_them(present: LargeTenant) -> None:
    """Who tries the link to unsubscribe has often the address that all mail of the client's is from."""
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


def test_an_address_that_php_wrote_before_is_known_by_its_number() -> None:
    ann = address("ann@x.test")
    header = Php(f"{MIME}Header\\MailboxListHeader", {"addresses": [Php("", {}, seen=8)]})
    headers = Php(f"{MIME}Header\\Headers", {"headers": {"to": [header]}})
    mail = Php(f"{MIME}Message", dict(enumerate([headers, None])))
    sent = Php(f"{MAILER}Messenger\\SendEmailMessage", {"envelope": None, "message": mail})
    # Its number: the whole, stamps, two strings, a flag, a list, what it is of, itself.
    stamps = {"a": "x", "b": "y", "c": True, "d": [None, ann]}
    whole = serialised(Php("Symfony\\Component\\Messenger\\Envelope", {"stamps": stamps, "message": sent}))
    assert recipients.sent_to(slashed(whole)) == {"ann@x.test"}


def test_an_apostrophe_in_an_address_is_read(present: LargeTenant) -> None:
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


def test_mail_that_was_dropped_is_kept_and_not_brought_back_with_the_rest(present: LargeTenant) -> None:
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


def test_who_has_the_number_of_an_erased_contact_is_left_alone_and_counted(present: LargeTenant) -> None:
    """A snapshot of before was restored in between: the number was given to somebody else there."""
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


def test_a_contact_is_erased_by_any_name_that_mautic_gives_it(present: LargeTenant) -> None:
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


def test_who_opted_out_did_so_too_for_whom_was_merged_into_them(present: LargeTenant) -> None:
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


def test_who_has_the_number_of_a_merged_contact_by_now_did_not_opt_out(present: LargeTenant) -> None:
    merge(present, 2, 1, "ann@x.test")
    merge(present, 2, 3, "Cy Lee")
    opt_out(present, 2)
    page = told()
    earlier(present)
    present.sql("UPDATE leads SET email = 'other@x.test' WHERE id = 1; UPDATE leads SET email = 'b' WHERE id = 2;")
    present.sql("UPDATE leads SET firstname = 'Else' WHERE id = 3; UPDATE leads SET email = 'ANN@x.test' WHERE id = 6;")
    present.sql("UPDATE leads SET date_added = '2025-05-05' WHERE id = 2;")
    done = consent.withdraw(page)
    assert rows(present) == {("6", "email", "1"), ("5", "email", "2")}, "by the address that one of them has"
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


def test_nothing_is_said_in_a_tenant_that_is_open(present: LargeTenant) -> None:
    consent.CLOSED.unlink()
    with pytest.raises(CtlError, match="it is open"):
        consent.withdraw({"said": [], "erased": [{"contact": 1, "at": UPGRADE}]})
    assert len(present.sql("SELECT id FROM leads;")) == 6


def test_what_is_hostile_in_a_row_stays_a_value(present: LargeTenant) -> None:
    """Whatever another container says: it is put into the same client's database, as text and numbers."""
    opt_out(present, 1)
    page = told()
    evil = "x'); DROP TABLE leads; -- \\"
    for name in ("email", "channel", "comments"):
        consent.withdraw({"said": [{**page["said"][0], name: evil}], "erased": []})
    assert len(present.sql("SELECT id FROM leads;")) == 6
    with pytest.raises(ValueError, match="invalid literal"):
        consent.withdraw({"said": [], "erased": [{"contact": "1 OR 1", "at": 0}]})
