"""The queries of a tenant's database use Mautic's own indices and give the same figures as plain ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint.mautic_ctl import console, counts, health, outbound, system
from tests.support.large_tenant import LargeTenant, statements

OF_7 = Path(__file__).parents[2] / "mautic_double/releases/7.2.2/app/migrations/Version20260315000000.php"
LARGE = frozenset(
    {
        "campaign_lead_event_failed_log",
        "campaign_lead_event_log",
        "email_stats",
        "form_submissions",
        "lead_lists_leads",
        "leads",
        "message_queue",
        "messenger_messages",
        "page_hits",
        "webhook_queue",
    }
)


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeTenant]:
    made = LargeTenant(tmp_path_factory.mktemp("mariadb"), buffer_pool="64M")
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _asked_there(tenant: LargeTenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(system.ENVIRONMENT, "HOME", str(tenant.home))
    # There is little to count here, but this machine may be busy.
    monkeypatch.setattr(outbound, "IN_SERVICE", 30)


@pytest.mark.parametrize("name", statements())
def test_large_tables_are_read_by_an_index_or_in_part(tenant: LargeTenant, name: str) -> None:
    asked = statements()[name]
    plan = tenant.sql(f"EXPLAIN {asked}")
    aliases = {"l": "campaign_lead_event_log", "m": "message_queue", "n": "webhook_queue", "q": "webhook_queue"}
    for _, _, table, kind, _, key, _, _, _, extra in plan:
        if (table if table in LARGE else aliases.get(table)) in LARGE:
            # Rows to drop are read in the order of the table, some thousands at a time.
            is_by_an_index = kind != "ALL" or name.startswith("drop")
            # The count of all contacts reads one index from end to end, and no rows beside it.
            is_in_part = kind != "index" or (name == "health contacts" and extra == "Using index")
            assert is_by_an_index, (table, key, extra)
            assert is_in_part, (table, key, extra)
            # Rows that are read beside an index are scattered over the disk, and some hold very long mails.
            assert "Using index" in extra.split("; ") or "LIMIT" in asked, (table, key, extra)


def test_the_list_of_statements_has_the_expected_queries() -> None:
    assert {"health queue", "health emails_day", "counts last_write", "mail events", "sent"} <= set(statements())
    assert len(statements()) > 20


def labelled(found: list[list[str]]) -> dict[str, list[list[str]]]:
    rows: dict[str, list[list[str]]] = {}
    for label, *values in found:
        rows.setdefault(label, []).append(values)
    return rows


def test_health_gives_the_same_figures_as_plain_queries(tenant: LargeTenant) -> None:
    found = labelled(system.sql(health.HEALTH_SQL, "mautic"))
    day = "UTC_TIMESTAMP() - INTERVAL 1 DAY"
    plain = tenant.sql(
        "SELECT queue_name, COUNT(*) FROM messenger_messages"
        " WHERE delivered_at IS NULL AND queue_name <> 'failed' GROUP BY queue_name;"
    )
    assert sorted(row[:2] for row in found["queue"]) == sorted(plain)
    ages = tenant.sql(
        "SELECT queue_name, TIMESTAMPDIFF(SECOND, MIN(available_at), UTC_TIMESTAMP()) FROM messenger_messages"
        " WHERE delivered_at IS NULL AND queue_name <> 'failed' GROUP BY queue_name;"
    )
    then = {name: int(age) for name, _, age in found["queue"]}
    assert {name: int(age) - then[name] for name, age in ages} == pytest.approx(dict.fromkeys(then, 0), abs=5)
    assert found["failed_mails"] == tenant.sql(
        f"SELECT COUNT(*), SUM(created_at > {day}) FROM messenger_messages WHERE queue_name = 'failed'"
    )
    assert found["emails_day"] == tenant.sql(
        f"SELECT COUNT(*), SUM(is_failed) FROM email_stats WHERE date_sent > {day}"
    )
    assert int(found["emails_day"][0][1]) > 0
    assert int(found["overdue_events"][0][0]) == 1000
    assert int(found["message_queue"][0][0]) > 0
    assert int(found["webhook_queue"][0][0]) == tenant.contacts // 4


def in_health(label: str) -> list[str]:
    return labelled(system.sql(health.HEALTH_SQL, "mautic"))[label][0]


def test_a_failed_hit_notification_is_not_counted_as_mail(tenant: LargeTenant) -> None:
    """It fails if its contact was merged or deleted meanwhile, and nobody can do anything about that."""
    kept, day = map(int, in_health("failed_mails"))
    for message in (
        r"Mautic\\MessengerBundle\\Message\\PageHitNotification",
        r"Mautic\\MessengerBundle\\Message\\EmailHitNotification",
        r"Symfony\\Component\\Mailer\\Messenger\\SendEmailMessage",
    ):
        # As Symfony's serializer writes it.
        body = rf"O:36:\"Symfony\\Component\\Messenger\\Envelope\":2:{{O:1:\"{message}\":0:{{}}}}"
        tenant.sql(
            "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)"
            f" VALUES ({system.sql_text(body)}, '', 'failed', UTC_TIMESTAMP(), UTC_TIMESTAMP())"
        )
    try:
        assert in_health("failed_mails") == [str(kept + 1), str(day + 1)]
        assert len(system.sql(console.FAILED.replace("500", "10000"), "mautic")) == kept + 1
    finally:
        tenant.sql("DELETE FROM messenger_messages WHERE headers = ''")


def test_webhook_calls_that_the_clients_endpoint_refused_are_not_overdue(tenant: LargeTenant) -> None:
    """Mautic has recorded refusals since version 7."""
    before = int(in_health("webhook_queue")[0])
    for statement in re.findall(r"'(ALTER TABLE webhook[^']+)'", OF_7.read_text()):
        tenant.sql(statement)
    try:
        assert int(in_health("webhook_queue")[0]) == before
        tenant.sql("UPDATE webhook_queue SET retries = 1, date_modified = UTC_TIMESTAMP() WHERE id % 8 = 0")
        assert int(in_health("webhook_queue")[0]) == before // 2
        tenant.sql("UPDATE webhooks SET marked_unhealthy_at = UTC_TIMESTAMP() - INTERVAL 1 DAY")
        assert in_health("webhook_queue") == ["0"]
    finally:
        tenant.sql(
            "ALTER TABLE webhook_queue DROP COLUMN retries, DROP COLUMN date_modified;"
            " ALTER TABLE webhooks DROP COLUMN marked_unhealthy_at;"
        )


def test_a_single_unbuilt_segment_is_not_stale_while_others_are_built(tenant: LargeTenant) -> None:
    """Its filter names a deleted field, so the job has not left any work undone."""
    of_yesterday = "UPDATE lead_lists SET date_added = {day}, last_built_date = {day} WHERE {which}"
    day = f"{tenant.now} - INTERVAL 1 DAY"
    try:
        tenant.sql(of_yesterday.format(day=day, which="id = 7"))
        assert in_health("stale_segments") == ["0"]
        tenant.sql(of_yesterday.format(day=day, which="TRUE"))
        assert in_health("stale_segments") == ["20"]
        tenant.sql("UPDATE lead_lists SET last_built_date = UTC_TIMESTAMP(), is_published = 0 WHERE id = 7")
        assert in_health("stale_segments") == ["19"], "an unpublished segment is no evidence that the job runs"
    finally:
        tenant.sql(f"UPDATE lead_lists SET date_added = {tenant.now}, last_built_date = {tenant.now}, is_published = 1")


def test_a_queue_with_delivered_messages_only_is_not_reported(tenant: LargeTenant) -> None:
    tenant.sql(
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at, delivered_at)"
        " VALUES ('', '', 'other', UTC_TIMESTAMP(), UTC_TIMESTAMP(), UTC_TIMESTAMP());"
    )
    assert "other" not in [row[0] for row in labelled(system.sql(health.HEALTH_SQL, "mautic"))["queue"]]
    tenant.sql(
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)"
        " VALUES ('', '', 'other', UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL 1 HOUR);"
    )
    assert ["other", "1", "0"] in labelled(system.sql(health.HEALTH_SQL, "mautic"))["queue"]
    tenant.sql("DELETE FROM messenger_messages WHERE queue_name = 'other'")


def test_the_last_write_is_the_newest_of_all_contacts(tenant: LargeTenant) -> None:
    def last() -> int:
        return int(counts.counts({"since": 0})["last_write"])

    plain = "SELECT UNIX_TIMESTAMP(MAX(GREATEST(date_added, COALESCE(date_modified, date_added)))) FROM leads"
    assert last() == int(tenant.sql(plain)[0][0])
    tenant.sql("UPDATE leads SET date_modified = UTC_TIMESTAMP() + INTERVAL 1 MINUTE WHERE id = 17")
    assert last() == int(tenant.sql(plain)[0][0])
    tenant.sql(f"UPDATE leads SET date_modified = {tenant.now} WHERE id = 17")


def test_mail_gives_the_same_figures_as_plain_queries(tenant: LargeTenant) -> None:
    since = int(tenant.sql(f"SELECT UNIX_TIMESTAMP({tenant.now} - INTERVAL 15 DAY)")[0][0])
    found = outbound.mail({"since": since})
    sent = "SELECT COUNT(*) FROM email_stats WHERE is_failed = 0 AND date_sent >= FROM_UNIXTIME"
    assert found["sent"] == int(tenant.sql(f"{sent}({since})")[0][0])
    plain = {
        "queue": f"SELECT COUNT(*) FROM messenger_messages WHERE {outbound.QUEUED}",
        "messages": "SELECT COUNT(*) FROM message_queue WHERE success = 0 AND attempts < max_attempts",
        "events": "SELECT COUNT(*) FROM campaign_lead_event_log WHERE is_scheduled AND trigger_date <= UTC_TIMESTAMP()",
        "broadcasts": f"SELECT COUNT(DISTINCT e.id, l.id) FROM {outbound.PENDING}",
    }
    assert found["kinds"] == {kind: int(tenant.sql(asked)[0][0]) for kind, asked in plain.items()}
    assert all(found["kinds"].values())
    assert found["waits"] == sum(found["kinds"].values())
    oldest = tenant.sql("SELECT UNIX_TIMESTAMP(MIN(trigger_date)) FROM campaign_lead_event_log WHERE is_scheduled")
    assert found["oldest"] == int(oldest[0][0])


def test_a_count_that_takes_too_long_is_left_out(tenant: LargeTenant, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = outbound.COUNTS.replace("SELECT 'broadcasts', COUNT(", "SELECT 'broadcasts', SLEEP(20) + COUNT(")
    monkeypatch.setattr(outbound, "COUNTS", slow)
    monkeypatch.setattr(outbound, "IN_SERVICE", 2)
    assert outbound.mail({})["kinds"].keys() == {"queue", "messages", "events"}


def test_mail_is_dropped_in_batches_and_all_of_it_comes_back(
    tenant: LargeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "AT_ONCE", 400)
    held: list[Any] = []
    for name in ("await_systemd", "start_database", "_hold", "_let_go"):
        monkeypatch.setattr(outbound, name, lambda: held.append(1))
    monkeypatch.setattr(outbound, "systemctl", lambda *_: None)
    before = outbound.mail({})["kinds"]
    done = outbound.release({"choice": "drop", "batch": 7})
    assert done["dropped"] == sum(before[kind] for kind in ("queue", "messages", "events")) + 1, (
        "plus the one email that waits"
    )
    assert outbound.mail({})["waits"] == 0
    outbound.release({"choice": "back", "batch": 7})
    assert outbound.mail({})["kinds"] == before
