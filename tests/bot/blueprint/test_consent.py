"""Who opted out, and who was erased: read in one database of a tenant, and said again in an earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.guest.answers import decode
from bot.guest.blueprint.mautic_ctl import consent, system
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
    monkeypatch.setattr(consent, "SEAL", tmp_path / "sealed")
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


def erase(server: LargeTenant, *contacts: int) -> None:
    """As Mautic does: each contact that goes has its row."""
    for contact in contacts:
        server.sql(
            "INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, details, date_added,"
            f" ip_address) VALUES (1, 'a', 'lead', 'lead', {contact}, 'delete', 'a:0:{{}}',"
            f" FROM_UNIXTIME({UPGRADE + 90}), '::1'); DELETE FROM leads WHERE id = {contact};"
        )


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
    assert found["erased"] == [{"contact": 3, "at": UPGRADE + 90}]
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
    present.sql(
        f"CREATE TABLE {consent.MERGES} (id INT AUTO_INCREMENT PRIMARY KEY, contact_id BIGINT UNSIGNED NOT NULL,"
        " date_added DATETIME NOT NULL, merged_id INT NOT NULL, name VARCHAR(191),"
        " FOREIGN KEY (contact_id) REFERENCES leads (id) ON DELETE CASCADE);"
        f"INSERT INTO {consent.MERGES} (contact_id, date_added, merged_id) VALUES (2, UTC_TIMESTAMP(), 1);"
    )
    erase(present, 1)
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
    assert consent.withdraw(page) == {"opt_outs": 3, "erasures": 0, "unknown": 0, "mails": 0}
    assert rows(present) == {("1", "email", "1"), ("2", "sms", "3"), ("5", "email", "1")}
    ((comment,),) = present.sql("SELECT HEX(comments) FROM lead_donotcontact WHERE lead_id = 1;")
    assert bytes.fromhex(comment).decode() == ODD
    assert consent.withdraw(page) == {"opt_outs": 0, "erasures": 0, "unknown": 0, "mails": 0}
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
    serialised = r"""O:36:\"Symfony\\Component\\Mailer\\SentMail\":1:{s:7:\"address\";s:10:\"ANN@x.test\";}"""
    bodies = (serialised, '{"to":"ben@x.test"}', "eyJ0byI6ImN5QHgudGVzdCJ9", '{"to":"joann@x.test"}', "x" * 50_000)
    values = ", ".join(f"({system.sql_text(body)}, '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())" for body in bodies)
    present.sql(
        f"INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES {values};"
    )
    assert consent.withdraw(page)["mails"] == 2
    left = [row[0][:20] for row in present.sql("SELECT body FROM messenger_messages ORDER BY id;")]
    assert left == ['{"to":"ben@x.test"}', '{"to":"joann@x.test"', "x" * 20]


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
    assert consent.withdraw(page) == {"opt_outs": 0, "erasures": 4, "unknown": 0, "mails": 1}


def test_nothing_is_said_in_a_tenant_that_is_open(present: LargeTenant) -> None:
    consent.SEAL.unlink()
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
