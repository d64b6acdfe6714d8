"""Looking for work before PHP is started: rules, answers, the database client, workers, and `mautic-cron` itself."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl import crons
from bot.guest.blueprint.mautic_look import look, rules, worker
from bot.guest.blueprint.mautic_look.database import Database, DatabaseAway, DatabaseRefused
from bot.guest.blueprint.recipe import FILES, FIRST_SUITE

ROOT = Path(__file__).parents[3]
CRONTAB = (FILES / "tenant/etc/cron.d/mautic").read_text()
SCHEMA = (ROOT / "tests/mautic_double/tree/app/double/schema.sql").read_text()
OF_7 = "tests/mautic_double/releases/7.2.2/app/migrations/Version20260315000000.php"
EACH_TIME = {
    "mautic:webhooks:delete_logs",
    "mautic:unusedip:delete",
    "mautic:iplookup:download",
    "mautic:donotsell:download",
    "mautic:max-mind:purge",
    "mautic:contacts:cleanup_exported_files",
}
"""Daily and weekly jobs, for which a look would save nothing."""


WHERE_SET_UP = {
    "mautic:custom-field:create-column",
    "mautic:custom-field:delete-column",
    "mautic:email:sendwinner",
}
"""Jobs that the crontab starts only if the client's settings, or its release, have them; they are never late."""


def test_every_job_has_a_rule_or_runs_each_time() -> None:
    times = crons.cron_times(CRONTAB)
    assert set(times) == (set(rules.RULES) - WHERE_SET_UP) | EACH_TIME
    assert set(re.findall(r"^[^#\n]* && mautic-cron \d+ \d+ (\S+)", CRONTAB, re.MULTILINE)) == WHERE_SET_UP
    assert {command for command, (period, _) in times.items() if period >= 86_400} == EACH_TIME


def test_no_frequent_job_waits_for_more_than_a_minute_before_it_starts() -> None:
    """It starts when Mautic's own crontab would start it, or at most one minute later."""
    spreads = re.findall(r"^[^#\n]*mautic-cron (\d+) \d+ (\S+)", CRONTAB, re.MULTILINE)
    assert {command for spread, command in spreads if int(spread) > 60} == EACH_TIME


# -- the table of rules -------------------------------------------------------------------------------------------


def moment(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S")


PAST, FUTURE = "@past", "@future"


@pytest.fixture
def tables() -> Iterator[Callable[[str], list[object]]]:
    """Mautic's tables as the double has them, in SQLite; yields a function for statements written for MariaDB."""
    database = sqlite3.connect(":memory:")
    database.create_function("UTC_TIMESTAMP", 0, lambda: moment(0))
    for statement in re.findall(r"^CREATE TABLE .*;$", SCHEMA, re.MULTILINE):
        database.execute(re.sub(r", (?:UNIQUE )?KEY (?:\w+ )?\([^)]*\)", "", statement))
    database.execute(
        "CREATE TABLE messenger_messages (id INTEGER PRIMARY KEY, queue_name, created_at, available_at, delivered_at)"
    )

    def ask(statement: str) -> list[object]:
        words = statement.replace(PAST, moment(-5)).replace(FUTURE, moment(60))
        interval = r"UTC_TIMESTAMP\(\) ([+-]) INTERVAL (\d+) (SECOND|MINUTE|HOUR)"
        return database.execute(re.sub(interval, r"datetime(UTC_TIMESTAMP(), '\1\2 \3')", words)).fetchall()

    yield ask
    database.close()


@pytest.fixture
def newer(tables: Callable[[str], list[object]]) -> Callable[[str], list[object]]:
    """The same tables with the changes of Mautic 7."""
    for statement in re.findall(r"'((?:ALTER|UPDATE) [^']+)'", (ROOT / OF_7).read_text()):
        tables(statement)
    return tables


CAMPAIGN = "INSERT INTO campaigns (name, is_published, publish_up, publish_down) VALUES ('c', "
EMAIL = "INSERT INTO emails (name, email_type, is_published, publish_up, publish_down) VALUES ('e', "
MESSAGE = (
    "INSERT INTO message_queue (lead_id, channel, channel_id, priority, max_attempts, attempts, success, status,"
    " scheduled_date) VALUES (1, 'email', 1, 2, 3, "
)
HOOK = "INSERT INTO webhook_queue (webhook_id) VALUES (1)"


@pytest.mark.parametrize(
    ("command", "row", "due"),
    [
        ("mautic:segments:update", "INSERT INTO lead_lists (name, alias, filters) VALUES ('s', 's', '')", True),
        (
            "mautic:segments:update",
            "INSERT INTO lead_lists (name, alias, filters, is_published) VALUES ('s', 's', '', 0)",
            False,
        ),
        *(
            (command, f"{CAMPAIGN}{values})", due)
            for command in ("mautic:campaigns:update", "mautic:campaigns:trigger")
            for values, due in (
                ("1, NULL, NULL", True),
                (f"1, '{PAST}', '{FUTURE}'", True),
                ("0, NULL, NULL", False),
                (f"1, '{FUTURE}', NULL", False),
                (f"1, NULL, '{PAST}'", False),
            )
        ),
        ("mautic:messages:send", f"{MESSAGE}0, 0, 'pending', '{PAST}')", True),
        ("mautic:messages:send", f"{MESSAGE}2, 0, 'rescheduled', '{PAST}')", True),
        ("mautic:messages:send", f"{MESSAGE}3, 0, 'rescheduled', '{PAST}')", False),
        ("mautic:messages:send", f"{MESSAGE}0, 0, 'pending', '{FUTURE}')", False),
        ("mautic:messages:send", f"{MESSAGE}1, 1, 'sent', '{PAST}')", False),
        (
            "mautic:broadcasts:send",
            f"INSERT INTO sms_messages (name, message, sms_type, publish_up) VALUES ('t', 't', 'list', '{PAST}')",
            True,
        ),
        ("mautic:email:sendwinner", f"{EMAIL}'list', 1, '{PAST}', NULL)", False),
        (
            "mautic:email:sendwinner",
            "INSERT INTO emails (name, email_type, variant_parent_id) VALUES ('b', 'list', 1)",
            True,
        ),
        *(
            ("mautic:import", f"INSERT INTO imports (dir, file, status) VALUES ('/', 'f', {status})", due)
            for status, due in ((1, True), (7, True), (2, False), (3, False), (4, False), (5, False))
        ),
        (
            "mautic:contacts:scheduled_export",
            f"INSERT INTO contact_export_scheduler (user_id, scheduled_datetime) VALUES (1, '{FUTURE}')",
            True,
        ),
        *(
            (
                "mautic:reports:scheduler",
                f"INSERT INTO reports_schedulers (report_id, schedule_date) VALUES (1, '{at}')",
                due,
            )
            for at, due in ((PAST, True), (FUTURE, False))
        ),
    ],
)
def test_a_job_is_due_where_mautic_would_find_something_to_do(
    tables: Callable[[str], list[object]], command: str, row: str, due: bool
) -> None:
    assert tables(rules.RULES[command].rows) == []
    tables(row)
    assert bool(tables(rules.RULES[command].rows)) == due


@pytest.mark.parametrize(
    ("email", "due"),
    [
        (f"'list', 1, '{PAST}', NULL", True),
        ("'list', 1, NULL, NULL", False),
        (f"'list', 1, '{FUTURE}', NULL", False),
        (f"'list', 0, '{PAST}', NULL", False),
        (f"'template', 1, '{PAST}', NULL", False),
    ],
)
def test_a_segment_email_is_due_until_it_was_sent_to_every_contact_of_its_segments(
    tables: Callable[[str], list[object]], email: str, due: bool
) -> None:
    def found() -> bool:
        return bool(tables(rules.RULES["mautic:broadcasts:send"].rows))

    tables(f"{EMAIL}{email})")
    tables("UPDATE emails SET id = 1")
    tables("INSERT INTO email_list_xref (email_id, leadlist_id) VALUES (1, 1)")
    assert not found(), "nobody is in its segment"
    for contact, removed in ((7, 0), (8, 0), (9, 1)):
        tables(
            "INSERT INTO lead_lists_leads (leadlist_id, lead_id, date_added, manually_removed, manually_added)"
            f" VALUES (1, {contact}, '{PAST}', {removed}, 0)"
        )
    assert found() == due
    tables(f"INSERT INTO email_stats (email_id, lead_id, email_address, date_sent) VALUES (1, 7, 'a', '{PAST}')")
    tables(f"INSERT INTO email_stats (email_id, lead_id, email_address, date_sent) VALUES (2, 8, 'a', '{PAST}')")
    assert found() == due, "contact 8 had another email"
    tables(f"INSERT INTO email_stats (email_id, lead_id, email_address, date_sent) VALUES (1, 8, 'a', '{PAST}')")
    assert not found()


@pytest.mark.parametrize("published", [1, 0])
def test_a_queued_webhook_call_is_due_only_if_its_webhook_is_published(
    tables: Callable[[str], list[object]], published: int
) -> None:
    tables(f"INSERT INTO webhooks (id, name, webhook_url, is_published) VALUES (1, 'w', 'u', {published})")
    assert tables(rules.RULES["mautic:webhooks:process"].rows) == []
    tables(HOOK)
    assert bool(tables(rules.RULES["mautic:webhooks:process"].rows)) == bool(published)


@pytest.mark.parametrize(
    ("retries", "tried", "unhealthy", "due"),
    [
        (0, None, None, True),
        (1, 59, None, False),
        (9, 59, None, False),
        (9, 61, None, True),
        (1, -30, None, True),
        (1, None, None, True),
        (0, None, 4, False),
        (3, 90, 4, False),
        (0, None, 6, True),
        (0, None, -30, True),
    ],
)
def test_a_refused_webhook_call_is_due_when_mautic_tries_it_again(
    newer: Callable[[str], list[object]], retries: int, tried: float | None, unhealthy: float | None, due: bool
) -> None:
    """Since Mautic 7: an hour after the last attempt, and not while the webhook is unhealthy. Times are minutes ago."""

    def ago(minutes: float | None) -> str:
        return "NULL" if minutes is None else f"'{moment(-minutes)}'"

    newer(f"INSERT INTO webhooks (id, name, webhook_url, marked_unhealthy_at) VALUES (1, 'w', 'u', {ago(unhealthy)})")
    newer(f"INSERT INTO webhook_queue (webhook_id, retries, date_modified) VALUES (1, {retries}, {ago(tried)})")
    assert bool(newer(rules.RULES["mautic:webhooks:process"].rows)) == due


def test_an_unhealthy_webhook_does_not_delay_others(newer: Callable[[str], list[object]]) -> None:
    newer(f"INSERT INTO webhooks (id, name, webhook_url, marked_unhealthy_at) VALUES (1, 'w', 'u', '{moment(-1)}')")
    newer("INSERT INTO webhooks (id, name, webhook_url) VALUES (2, 'w', 'u')")
    newer(HOOK)
    assert newer(rules.RULES["mautic:webhooks:process"].rows) == []
    newer("INSERT INTO webhook_queue (webhook_id) VALUES (2)")
    assert newer(rules.RULES["mautic:webhooks:process"].rows) != []


@pytest.mark.parametrize("parameter", ["webhook_retry_delay", "webhook_health_check_time"])
def test_every_waiting_webhook_call_is_due_if_the_client_configured_other_times(
    mautic: Path, newer: Callable[[str], list[object]], parameter: str
) -> None:
    newer("INSERT INTO webhooks (id, name, webhook_url) VALUES (1, 'w', 'u')")
    newer(f"INSERT INTO webhook_queue (webhook_id, retries, date_modified) VALUES (1, 1, '{moment(-2)}')")
    looks = look.Looks(newer, str(mautic))  # type: ignore[arg-type]
    config = mautic / "config/local.php"
    config.write_text("<?php $parameters = ['queue_mode' => 'command_process'];")
    assert looks.answer("mautic:webhooks:process") == "nothing"
    config.write_text(f"<?php $parameters = ['queue_mode' => 'command_process', '{parameter}' => 60];")
    assert looks.answer("mautic:webhooks:process") == "due"


@pytest.mark.parametrize(
    ("goes_on", "sent", "minutes", "due"), [(0, 1, 5, True), (1, 1, 5, False), (0, 0, 5, False), (0, 1, 70, False)]
)
def test_a_fully_sent_segment_email_is_due_once_more_if_mautic_then_unpublishes_it(
    newer: Callable[[str], list[object]], goes_on: int, sent: int, minutes: float, due: bool
) -> None:
    def found() -> bool:
        return bool(newer(rules.RULES["mautic:broadcasts:send"].rows))

    newer(f"{EMAIL}'list', 1, '{moment(-90)}', NULL)")
    newer(f"UPDATE emails SET id = 1, continue_sending = {goes_on}, sent_count = {sent}")
    newer(
        "INSERT INTO email_stats (email_id, lead_id, email_address, date_sent)"
        f" VALUES (1, 7, 'a', '{moment(-minutes)}')"
    )
    assert found() == due
    newer("UPDATE emails SET is_published = 0")
    assert not found()


def test_before_mautic_7_a_fully_sent_segment_email_is_not_due(
    tables: Callable[[str], list[object]],
) -> None:
    tables(f"{EMAIL}'list', 1, '{PAST}', NULL)")
    tables("UPDATE emails SET id = 1, sent_count = 1")
    tables(f"INSERT INTO email_stats (email_id, lead_id, email_address, date_sent) VALUES (1, 7, 'a', '{PAST}')")
    assert tables(rules.RULES["mautic:broadcasts:send"].rows) == []


def test_a_deleted_field_is_due_until_its_column_is_gone(tables: Callable[[str], list[object]]) -> None:
    tables("CREATE TABLE lead_fields (id INTEGER PRIMARY KEY, column_is_not_removed TINYINT NOT NULL DEFAULT 0)")
    tables("INSERT INTO lead_fields (id) VALUES (1)")
    assert tables(rules.RULES["mautic:custom-field:delete-column"].rows) == []
    tables("UPDATE lead_fields SET column_is_not_removed = 1")
    assert tables(rules.RULES["mautic:custom-field:delete-column"].rows) != []


@pytest.mark.parametrize(
    ("config", "queues", "inbox"),
    [
        ("", False, False),
        ("'queue_mode' => 'immediate_process', 'db_host' => 'localhost'", False, False),
        ("'queue_mode' => 'command_process'", True, False),
        ('"queue_mode"=>"command_process"', True, False),
        ("'queue_mode' => $other", True, False),
        ("'queue_mode' => 'immediate_process', 'queue_mode' => 'command_process'", True, False),
        ("'monitored_email' => ['general' => ['host' => null, 'port' => 993]]", False, False),
        ("'monitored_email' => ['general' => ['host' => '']]", False, False),
        ("'monitored_email' => ['general' => ['host' => null], 'bounces' => ['host' => 'imap.test']]", False, True),
        ("'monitored_email' => ['general' => ['host' => $other]]", False, True),
    ],
)
def test_a_job_is_off_only_if_nobody_has_set_up_what_it_is_for(config: str, queues: bool, inbox: bool) -> None:
    assert (rules.queues_webhooks(config), rules.monitors_inbox(config)) == (queues, inbox)


# -- the answers -------------------------------------------------------------------------------------------------


@pytest.fixture
def mautic(tmp_path: Path) -> Path:
    """The files of a Mautic 5.2."""
    for folder in ("app", "config", "plugins/MauticFocusBundle"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "app/release_metadata.json").write_text('{\n  "version": "5.2.9",\n  "stability": "stable"}')
    (tmp_path / "config/local.php").write_text("<?php $parameters = ['db_host' => 'localhost'];")
    (tmp_path / "plugins/MauticFocusBundle/MauticFocusBundle.php").write_text("<?php")
    return tmp_path


def refuse(_: str) -> list[list[str | None]]:
    raise DatabaseRefused(1146)


def test_the_answer_depends_on_the_rows_in_the_database(mautic: Path) -> None:
    asked: list[str] = []

    def rows(statement: str) -> list[list[str | None]]:
        asked.append(statement)
        return [["1"]] if "lead_lists" in statement else []

    looks = look.Looks(rows, str(mautic))
    assert looks.answer("mautic:segments:update") == "due"
    assert looks.answer("mautic:import") == "nothing"
    assert looks.answer("mautic:webhooks:process") == "off"
    assert looks.answer("mautic:email:fetch") == "off"
    assert asked == [rules.RULES[command].rows for command in ("mautic:segments:update", "mautic:import")]


@pytest.mark.parametrize("version", ["4.4.13", "8.0.0", "next", ""])
def test_jobs_of_another_version_of_mautic_are_in_doubt(mautic: Path, version: str) -> None:
    (mautic / "app/release_metadata.json").write_text(json.dumps({"version": version}))
    assert look.Looks(lambda _: [], str(mautic)).answer("mautic:import") == "doubt"


@pytest.mark.parametrize("version", ["5.1.1", "5.2.12+double", "6.0.8", "7.2.2"])
def test_the_supported_versions_of_mautic_are_known(mautic: Path, version: str) -> None:
    (mautic / "app/release_metadata.json").write_text(json.dumps({"version": version}))
    assert look.Looks(lambda _: [], str(mautic)).answer("mautic:import") == "nothing"


def test_any_error_is_answered_with_doubt(mautic: Path) -> None:
    assert look.Looks(refuse, str(mautic)).answer("mautic:import") == "doubt"
    assert look.Looks(lambda _: [], str(mautic)).answer("mautic:no:such:job") == "doubt"
    (mautic / "app/release_metadata.json").unlink()
    assert look.Looks(lambda _: [], str(mautic)).answer("mautic:import") == "doubt"


def test_a_change_of_the_configuration_is_noticed(mautic: Path) -> None:
    looks = look.Looks(lambda _: [["1"]], str(mautic))
    assert looks.answer("mautic:webhooks:process") == "off"
    (mautic / "config/parameters_local.php").write_text("<?php $parameters = ['queue_mode' => 'command_process'];")
    assert looks.answer("mautic:webhooks:process") == "due"


def test_a_plugin_may_have_broadcasts_of_its_own(mautic: Path) -> None:
    looks = look.Looks(lambda _: [], str(mautic))
    assert looks.answer("mautic:broadcasts:send") == "nothing"
    plugin = mautic / "plugins/OurBundle/EventListener"
    plugin.mkdir(parents=True)
    (plugin / "BroadcastSubscriber.php").write_text("return [ChannelEvents::CHANNEL_BROADCAST => ['onBroadcast', 0]];")
    assert looks.answer("mautic:broadcasts:send") == "due"
    assert looks.answer("mautic:import") == "nothing"


def test_questions_and_answers_go_over_fifos(mautic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mautic / "run"
    run.mkdir()
    monkeypatch.setattr(look, "RUN", str(run))
    monkeypatch.setattr(look.Looks.__init__, "__defaults__", (str(mautic),))
    # Without a database every answer is `doubt`, except for jobs that nobody has set up.
    threading.Thread(target=look.main, daemon=True).start()
    give_up = time.monotonic() + 10
    while not (run / "ask").exists():
        assert time.monotonic() < give_up
    names = ("ask", "answer-mautic_email_fetch", "answer-mautic_import")
    asked, off, due = (os.open(run / name, os.O_RDWR) for name in names)
    os.write(asked, b"no_such_job 1\nmautic_email_fetch 7\nmautic_imp")
    assert os.read(off, 100) == b"7 off\n"
    os.write(asked, b"ort 8\n")
    assert os.read(due, 100) == b"8 doubt\n"
    # An answer that nobody fetched is not kept for the next question.
    os.write(asked, b"mautic_email_fetch 9\nmautic_email_fetch 10\nmautic_import 11\n")
    assert os.read(due, 100) == b"11 doubt\n"
    assert os.read(off, 100) == b"10 off\n"
    for number in (asked, off, due):
        os.close(number)


# -- the database -------------------------------------------------------------------------------------------------


class Server:
    """A fake MariaDB on a socket, for one connection after the other, that gives `answers` in turn."""

    def __init__(self, path: Path, answers: list[list[bytes]]) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while self._answers:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                connection.sendall(packet(0, b"\x0a10.11.14-MariaDB\0" + bytes(60)))
                while self._answers and (head := reader.read(4)):
                    self.asked.append(reader.read(int.from_bytes(head[:3], "little")))
                    said = self._answers.pop(0)
                    for number, part in enumerate(said):
                        connection.sendall(packet(number + 1, part))
                    if not said:
                        break


def packet(number: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([number]) + content


OK, END = b"\x00\x00\x00\x02\x00\x00\x00", b"\xfe\x00\x00\x02\x00"
ROWS = [b"\x01", b"\x03def", END, b"\x011", b"\xfb", b"\xfc\x00\x01" + b"x" * 256, END]


@contextmanager
def served(folder: Path, *answers: list[bytes]) -> Iterator[tuple[Database, Server]]:
    server = Server(folder / "mysqld.sock", list(answers))
    database = Database(str(folder / "mysqld.sock"))
    try:
        yield database, server
    finally:
        database.close()
        server.close()


def test_a_query_over_the_socket_returns_rows(tmp_path: Path) -> None:
    # The server may name the plugin that authenticates the client, which takes another, empty, reply.
    with served(tmp_path, [b"\xfeunix_socket\0"], [OK], [OK], ROWS, [OK]) as (database, server):
        assert database.rows("SELECT 1") == [["1"], [None], ["x" * 256]]
        assert database.rows("SELECT 2") == []
    assert server.asked[0][32:] == b"www-data\0\0mautic\0mysql_native_password\0"
    assert server.asked[2].startswith(b"\x03SET SESSION max_statement_time")
    assert server.asked[3:] == [b"\x03SELECT 1", b"\x03SELECT 2"]


def test_an_error_has_its_number_and_the_next_query_makes_a_new_connection(tmp_path: Path) -> None:
    error = b"\xff\x7a\x04#42S02Table 'mautic.imports' doesn't exist"
    with served(tmp_path, [OK], [OK], [error], [OK], [OK], ROWS) as (database, _):
        with pytest.raises(DatabaseRefused) as refused:
            database.rows("SELECT 1")
        assert refused.value.number == 1146
        assert len(database.rows("SELECT 1")) == 3


def test_a_connection_that_ended_meanwhile_is_reopened(tmp_path: Path) -> None:
    with served(tmp_path, [OK], [OK], ROWS, [], [OK], [OK], ROWS) as (database, server):
        assert len(database.rows("SELECT 1")) == 3
        assert len(database.rows("SELECT 2")) == 3
    assert server.asked[-1] == b"\x03SELECT 2"


def test_the_number_of_questions_is_read_without_a_statement(tmp_path: Path) -> None:
    told = b"Uptime: 12  Threads: 2  Questions: 345  Slow queries: 0  Opens: 17"
    with served(tmp_path, [OK], [OK], [told], ROWS) as (database, server):
        assert database.questions() == 345
        assert len(database.rows("SELECT 1")) == 3
    assert server.asked[2] == b"\x09"


def test_a_database_without_a_server_is_away(tmp_path: Path) -> None:
    with pytest.raises(DatabaseAway):
        Database(str(tmp_path / "mysqld.sock")).rows("SELECT 1")


# -- workers ------------------------------------------------------------------------------------------------------


def message(queue: str = "email", created: str = PAST, available: str = PAST, delivered: str = "") -> str:
    taken = f"'{delivered}'" if delivered else "NULL"
    return (
        "INSERT INTO messenger_messages (queue_name, created_at, available_at, delivered_at)"
        f" VALUES ('{queue}', '{created}', '{available}', {taken})"
    )


@pytest.mark.parametrize(
    ("row", "due"),
    [
        (message(), True),
        (message("hit"), True),
        (message("failed"), False),
        (message(available=FUTURE), False),
        (message(delivered=PAST), False),
        (message(delivered="2020-01-01 00:00:00"), True),
        (message(delivered="9999-12-31 23:59:59"), False),
        (message(created=FUTURE, available=FUTURE), True),
    ],
    ids=["due", "hit", "failed", "later", "taken", "its worker died", "handled", "another time zone"],
)
def test_a_worker_is_needed_where_a_message_is_due(tables: Callable[[str], list[object]], row: str, due: bool) -> None:
    tables(row)
    assert bool(tables(worker.waiting(["email", "hit"], 1))) == due


def test_a_second_worker_is_needed_where_many_messages_wait(tables: Callable[[str], list[object]]) -> None:
    for _ in range(100):
        tables(message())
    assert tables(worker.waiting(["email", "hit"], 1 + worker.SHARE)) == []
    tables(message())
    assert tables(worker.waiting(["email", "hit"], 1 + worker.SHARE)) == [(1,)]


def test_page_hits_need_their_own_process_after_waiting_for_some_seconds(tables: Callable[[str], list[object]]) -> None:
    starve = worker.waiting([worker.HITS], 1, worker.STARVED)
    tables(message(available=moment(0), queue="hit"))
    tables(message())
    assert tables(starve) == []
    tables(message("hit"))
    assert tables(starve) == [(1,)]


def test_a_worker_runs_from_the_first_message_until_a_minute_after_the_last() -> None:
    need = worker.Need()
    assert not need.wanted(False, 100, runs=False)
    assert need.wanted(True, 101, runs=False)
    assert need.wanted(False, 102, runs=True)
    assert need.wanted(True, 150, runs=True)
    assert need.wanted(False, 209, runs=True)
    assert not need.wanted(False, 210, runs=True)
    need.ended(0, 211)
    assert not need.wanted(False, 211, runs=False)
    assert need.wanted(True, 212, runs=False)


def test_a_failed_worker_is_started_again_after_a_while() -> None:
    need = worker.Need()
    need.ended(255, 100)
    assert not need.wanted(True, 109, runs=False)
    assert need.wanted(True, 110, runs=False)


def test_no_worker_starts_or_ends_while_the_database_is_away() -> None:
    need = worker.Need()
    assert not need.wanted(None, 100, runs=False)
    assert need.wanted(None, 1000, runs=True)


class Counting(Database):
    """A fake database that got `others` statements from others, and whose queue was read `looks` times."""

    def __init__(self) -> None:
        super().__init__("/no/such/socket")
        self.others = self.looks = 0
        self.there = False

    def questions(self) -> int:
        return self.others + self.looks

    def rows(self, statement: str) -> list[list[str | None]]:
        self.looks += 1
        return [["1"]] if self.there else []


def test_a_queue_is_read_again_after_the_database_received_a_statement() -> None:
    database = Counting()
    queue = worker.Queue(database, ["email"], 0)
    assert [queue.due(100 + number, runs=False) for number in range(4)] == [False] * 4
    assert database.looks == 2, "the first look, and the one after it"
    database.others += 1
    database.there = True
    assert queue.due(104, runs=False) is True


def test_a_statement_that_writes_after_it_was_counted_is_noticed_at_the_next_look() -> None:
    database = Counting()
    queue = worker.Queue(database, ["email"], 0)
    for number in range(3):
        queue.due(100 + number, runs=False)
    database.others += 1
    assert queue.due(103, runs=False) is False
    database.there = True
    assert queue.due(104, runs=False) is True


def test_a_message_that_becomes_due_by_time_alone_is_noticed_after_some_seconds() -> None:
    database = Counting()
    queue = worker.Queue(database, ["email"], 0)
    for number in range(3):
        queue.due(100 + number, runs=False)
    database.there = True
    assert queue.due(103 + worker.SURELY - 3, runs=False) is False
    assert queue.due(101 + worker.SURELY, runs=False) is True


def test_a_refused_query_counts_as_due_and_a_missing_database_as_unknown() -> None:
    class Refusing(Counting):
        def rows(self, statement: str) -> list[list[str | None]]:
            return refuse(statement)

    for runs in (False, True):
        assert worker.Queue(Refusing(), ["email"], 0).due(100, runs=runs) is True
        assert worker.Queue(Database("/no/such/socket"), ["email"], 0).due(100, runs=runs) is None


# -- mautic-cron --------------------------------------------------------------------------------------------------


class Cron:
    """`mautic-cron` as shipped, with other paths; `looked`: the answer of mautic-look, None: it does not run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("beats", "look", "nginx", "bin"):
            (folder / name).mkdir()
        (folder / "machine-id").write_text("0000ff" + "0" * 26)
        for program, places in (
            (
                "mautic-cron",
                {
                    "/var/lib/mautic-ops/cron": "beats",
                    "/run/mautic-look": "look",
                    "/etc/nginx": "nginx",
                    "/usr/local/bin/mautic-spread": "mautic-spread",
                },
            ),
            (
                "mautic-spread",
                {
                    "/run/mautic-look": "look",
                    "/etc/machine-id": "machine-id",
                    "/etc/default/mautic-cron": "settings",
                },
            ),
        ):
            text = FIRST_SUITE.filled((FILES / "tenant/usr/local/bin" / program).read_text())
            for there, here in places.items():
                assert there in text
                text = text.replace(there, str(folder / here))
            (folder / program).write_text(text)
        self.php("exit 0")
        self.program("logger", "cat >/dev/null")

    def php(self, script: str) -> None:
        self.program("php8.2", f'echo "$2" >>{self.folder}/ran\n{script}')

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def runs(self) -> int:
        """The number of times that PHP was started."""
        ran = self.folder / "ran"
        return len(ran.read_text().splitlines()) if ran.exists() else 0

    def beat(self, command: str = "mautic:import") -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / f"beats/{command.replace(':', '_')}.json").read_text())
        return found

    def __call__(self, looked: str | None = None, command: str = "mautic:import", spread: int = 1) -> dict[str, object]:
        """Run it as cron does; return the heartbeat."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        argv = ["/bin/bash", str(self.folder / "mautic-cron"), str(spread), "30", command]
        with answering(self.folder / "look", command, looked):
            ended = subprocess.run(argv, env={"PATH": path}, capture_output=True, text=True, timeout=30, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        return self.beat(command)


@contextmanager
def answering(folder: Path, command: str, looked: str | None) -> Iterator[None]:
    """Play a mautic-look that gives one answer, after an answer to another question."""
    if looked is None:
        yield
        return
    asked, answer = (look._fifo(str(folder / name)) for name in ("ask", f"answer-{command.replace(':', '_')}"))
    os.set_blocking(asked, True)

    def tell() -> None:
        name, token = os.read(asked, 100).decode().split()
        if name != "end":
            os.write(answer, f"1{token} due\n{token} {looked}\n".encode())

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        os.write(asked, b"end 0\n")
        thread.join()
        for number in (asked, answer):
            os.close(number)
        for path in folder.iterdir():
            path.unlink()


@pytest.fixture
def cron(tmp_path: Path) -> Cron:
    return Cron(tmp_path)


def test_a_job_with_nothing_to_do_succeeds_without_starting_php(cron: Cron) -> None:
    cron("due")
    time.sleep(1.1)
    beat = cron("nothing")
    assert cron.runs == 1
    assert (beat["rc"], beat["skipped"], beat["looked"]) == (0, False, "nothing")
    assert isinstance(beat["last_success"], int)
    assert beat["last_success"] > beat["last_run"]  # type: ignore[operator]


@pytest.mark.parametrize("looked", ["due", "doubt", "anything", None])
def test_any_other_answer_starts_php(cron: Cron, looked: str | None) -> None:
    cron("due")
    assert cron(looked)["rc"] == 0
    assert cron.runs == 2


def test_a_new_tenants_first_look_starts_no_php_if_there_is_nothing_to_do(cron: Cron) -> None:
    beat = cron("nothing")
    assert (cron.runs, beat["last_run"], beat["last_success"]) == (0, beat["start"], beat["start"])


@pytest.mark.parametrize("looked", ["due", "doubt", None])
def test_a_new_tenants_first_look_starts_php_on_any_other_answer(cron: Cron, looked: str | None) -> None:
    cron(looked)
    assert cron.runs == 1


def test_a_heartbeat_without_a_last_run_causes_one_run(cron: Cron) -> None:
    (cron.folder / "beats/mautic_import.json").write_text(
        '{"cmd":"mautic:import","start":1,"end":1,"rc":0,"skipped":false,"last_success":1800000000}\n'
    )
    cron("nothing")
    cron("nothing")
    assert cron.runs == 1


@pytest.mark.parametrize(
    ("looked", "every", "ago", "runs"),
    [
        ("nothing", 3600, 3599, 0),
        ("nothing", 3600, 3601, 1),
        ("nothing", 600, 601, 1),
        ("nothing", 0, 90_000, 0),
        ("off", 3600, 3601, 0),
        ("off", 3600, 86_401, 1),
        ("nothing", 3600, -10, 1),
    ],
)
def test_a_job_runs_once_per_interval_even_if_there_is_nothing_to_do(
    cron: Cron, looked: str, every: int, ago: int, runs: int
) -> None:
    (cron.folder / "settings").write_text(f"every={every}\n")
    last = int(time.time()) - ago + 1
    (cron.folder / "beats/mautic_import.json").write_text(f'{{"last_run":{last},"last_success":{last}}}')
    beat = cron(looked)
    assert (cron.runs, beat["every"]) == (runs, every)
    assert beat["last_run"] == last or runs


def test_a_failed_run_is_repeated_even_if_there_is_nothing_to_do(cron: Cron) -> None:
    well = cron("due")
    cron.php("exit 3")
    badly = cron("due")
    assert (badly["rc"], badly["last_run"], badly["last_success"]) == (3, None, well["last_success"])
    assert cron("nothing")["rc"] == 3
    cron.php("exit 0")
    assert cron("nothing")["rc"] == 0
    assert cron.runs == 4


@pytest.mark.parametrize("which", ["published", "published/Healthy"])
def test_having_no_published_webhook_is_not_a_failure(cron: Cron, which: str) -> None:
    cron.php(f'echo "No {which} webhooks found. Try again later."; exit 1')
    beat = cron("due", "mautic:webhooks:process")
    assert (beat["rc"], beat["last_success"], beat["last_run"]) == (1, beat["end"], beat["end"])


def test_having_no_column_to_delete_is_not_a_failure_in_any_language(cron: Cron) -> None:
    cron.php('echo "Feld nicht gefunden"; exit 1')
    beats = cron.folder / "beats/mautic_custom-field_delete-column.json"
    beats.write_text('{"last_run":1,"last_success":1}')
    beat = cron("nothing", "mautic:custom-field:delete-column")
    assert (beat["rc"], beat["last_success"], beat["last_run"]) == (1, beat["end"], beat["end"])
    assert cron("due", "mautic:custom-field:delete-column")["last_run"] is None
    assert cron.runs == 2


@pytest.mark.parametrize("mark", ["sealed", "muted"])
def test_a_job_of_a_closed_tenant_neither_looks_nor_runs(cron: Cron, mark: str) -> None:
    before = cron("due")
    (cron.folder / "nginx" / mark).touch()
    beat = cron("nothing")
    assert (beat["skipped"], beat["rc"], beat["last_success"]) == (mark, None, before["last_success"])
    assert cron.runs == 1


def test_a_job_waits_for_its_second_without_a_program_while_mautic_look_runs(cron: Cron) -> None:
    (cron.folder / "settings").write_text("slot=61\n")
    cron.program("sleep", f"touch {cron.folder}/slept")
    began = time.monotonic()
    cron("due", spread=50)
    assert (cron.folder / "slept").exists()
    os.mkfifo(cron.folder / "look/wait")
    (cron.folder / "slept").unlink()
    cron("due", spread=50)
    assert not (cron.folder / "slept").exists()
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("slot", "spread", "seconds"), [(0, 50, None), (59, 50, 9), (61, 20, 1), (30, 3000, 1500), (299, 3000, 2950)]
)
def test_a_tenants_wait_is_its_second_scaled_from_a_minute_to_the_spread(
    cron: Cron, slot: int, spread: int, seconds: int | None
) -> None:
    (cron.folder / "settings").write_text(f"slot={slot}\n")
    cron.program("sleep", f"echo $1 >{cron.folder}/slept")
    cron("due", spread=spread)
    slept = cron.folder / "slept"
    assert (int(slept.read_text()) if slept.exists() else None) == seconds


def test_a_job_does_not_run_if_the_tenant_was_closed_while_it_waited(cron: Cron) -> None:
    cron.program("sleep", f"touch {cron.folder}/nginx/sealed")
    assert cron("due", spread=50)["skipped"] == "sealed"
    assert cron.runs == 0


def test_a_job_runs_once_at_a_time(cron: Cron) -> None:
    cron("due")
    lock = f"exec 9>{cron.folder}/beats/mautic_import.lock; flock 9; echo held; read _"
    argv = ["/bin/bash", "-c", lock]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdin
        holder.stdout.readline()
        beat = cron("due")
        holder.stdin.close()
    assert (beat["skipped"], beat["rc"], cron.runs) == ("running", None, 1)
