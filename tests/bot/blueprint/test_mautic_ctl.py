"""The in-tenant tool `mautic-ctl`: what can be tested without a tenant."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bot.guest.answers import SHAPES
from bot.guest.blueprint.mautic_ctl import (
    access,
    crons,
    database,
    disk,
    edge,
    health,
    identity,
    install,
    jobs,
    logs,
    main,
    outbound,
    page,
    parameters,
    sizes,
    system,
)
from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.guest.blueprint.mautic_ctl.wire import Wire
from bot.guest.mautic import Mautic
from bot.settings import load
from tests.support.bot import until
from tests.support.simulated_lxd import SimulatedLxd

CRONTAB = """\
0,15,30,45  * * * * www-data mautic-cron 240 7200 mautic:segments:update --bypass-locking
*/3  * * * * www-data mautic-cron 50 7200 mautic:import
*    * * * * www-data mautic-cron 20 1800 mautic:webhooks:process
#*/5 * * * * www-data mautic-cron 50 3600 mautic:custom-field:create-column
10 3 * * *   www-data mautic-cron 3000 3600 mautic:webhooks:delete_logs
30 4 * * sun www-data mautic-cron 3000 3600 mautic:iplookup:download
50 2 * * *   root /usr/sbin/logrotate /etc/logrotate.conf
"""
NOW = 1_800_000_000.0
LOOKED = {"rc": 0, "skipped": False, "looked": "nothing", "every": 3600, "last_success": NOW - 60}
LIMITS = load(environment={}).health
ASKED = {"limits": {name: getattr(LIMITS, name) for name in ("disk", "memory", "queue_minutes", "log_errors")}}


def test_periods_and_limits_are_read_from_the_crontab() -> None:
    assert crons.cron_times(CRONTAB) == {
        "mautic:segments:update": (900, 7200),
        "mautic:import": (180, 7200),
        "mautic:webhooks:process": (60, 1800),
        "mautic:webhooks:delete_logs": (86400, 3600),
        "mautic:iplookup:download": (7 * 86400, 3600),
    }


@pytest.mark.parametrize(
    ("beat", "since", "late", "why"),
    [
        ({}, NOW - 100, False, "never ran"),
        ({}, NOW - 3600, True, "never ran"),
        ({"rc": 0, "skipped": False, "last_success": NOW - 1000}, 0, False, "exit code 0"),
        ({"rc": 1, "skipped": False, "last_success": NOW - 9000}, 0, True, "exit code 1"),
        ({"rc": None, "skipped": "running", "last_success": NOW - 8900}, 0, False, "skipped: running"),
        ({"rc": None, "skipped": "running", "last_success": NOW - 9100}, 0, True, "skipped: running"),
        ({"rc": 1, "skipped": False, "last_success": None}, NOW - 9000, True, "exit code 1"),
        ({"rc": None, "skipped": "sealed", "last_success": NOW - 9000}, NOW - 2600, False, "skipped: sealed"),
        ({"rc": None, "skipped": "sealed", "last_success": NOW - 9000}, NOW - 2800, True, "skipped: sealed"),
        (LOOKED | {"last_run": NOW - 3600}, 0, False, "nothing to do"),
        (LOOKED | {"last_run": NOW - 9800}, 0, False, "nothing to do"),
        (LOOKED | {"last_run": NOW - 10_000}, 0, True, "not run for 3 hours, only looked at: nothing to do"),
        (LOOKED | {"last_run": NOW - 10_000}, NOW - 600, False, "nothing to do"),
        (LOOKED | {"last_run": NOW - 90_000, "every": 0}, 0, False, "nothing to do"),
        (LOOKED | {"last_run": NOW - 80_000, "looked": "off"}, 0, False, "not set up"),
        (LOOKED | {"last_run": NOW - 3600, "last_success": NOW - 9000}, 0, True, "nothing to do"),
        (LOOKED | {"last_run": "long ago", "every": None}, 0, False, "nothing to do"),
        (LOOKED | {"looked": ["nothing"], "last_run": 1}, 0, False, "exit code 0"),
        (LOOKED | {"looked": "due", "rc": 1, "last_run": None}, 0, False, "exit code 1"),
        (LOOKED | {"rc": None, "skipped": "sealed", "last_run": NOW}, 0, False, "skipped: sealed"),
        ({"rc": 0, "skipped": False, "last_success": "yesterday"}, NOW - 9000, True, "exit code 0"),
    ],
)
def test_a_job_is_late_after_two_periods_plus_15_minutes_or_its_time_limit(
    beat: dict[str, object], since: float, late: bool, why: str
) -> None:
    states = crons.cron_states({"mautic:segments:update": (900, 7200)}, {"mautic_segments_update": beat}, since, NOW)
    assert (states["mautic:segments:update"]["late"], states["mautic:segments:update"]["why"]) == (late, why)


FAILED = {"rc": 1, "skipped": False, "last_success": NOW - 4 * 86_400}


@pytest.mark.parametrize(
    ("beat", "awake", "state"),
    [
        ({"rc": 0, "skipped": False, "last_success": NOW - 1000}, 600, "on time"),
        ({"rc": 0, "skipped": False, "last_success": NOW - 9000}, 600, "unknown"),
        ({"rc": 0, "skipped": False, "last_success": NOW - 9000}, 2800, "late"),
        ({"rc": None, "skipped": "running", "last_success": NOW - 90_000, "end": NOW - 10}, 8900, "unknown"),
        ({"rc": None, "skipped": "running", "last_success": NOW - 90_000, "end": NOW - 10}, 9100, "late"),
        (LOOKED | {"last_run": NOW - 10_000}, 600, "unknown"),
        (FAILED | {"end": NOW - 10}, 2600, "unknown"),
        ({}, 600, "unknown"),
    ],
)
def test_a_job_that_is_late_only_because_of_a_gap_in_the_checks_is_not_known_to_be_late(
    beat: dict[str, object], awake: float, state: str
) -> None:
    times = {"mautic:segments:update": (900, 7200)}
    told = crons.cron_states(times, {"mautic_segments_update": beat}, 0, NOW, NOW - awake)["mautic:segments:update"]
    assert (told["late"], told["known"]) == {
        "on time": (False, True),
        "unknown": (False, False),
        "late": (True, True),
    }[state]


@pytest.mark.parametrize(("ended", "late"), [(NOW - 86_400, False), (NOW - 36_000 + 60, False), (NOW - 60, True)])
def test_a_daily_job_that_fails_again_after_the_gap_is_late_without_two_more_days(ended: float, late: bool) -> None:
    """The first runs after a gap all begin at once: one that fails then may succeed with the next."""
    beats = {"mautic_webhooks_delete_logs": FAILED | {"end": ended}}
    times = {"mautic:webhooks:delete_logs": (86_400, 3600)}
    told = crons.cron_states(times, beats, 0, NOW, NOW - 36_000)["mautic:webhooks:delete_logs"]
    assert (told["late"], told["known"]) == (late, late)


def test_a_job_that_was_only_looked_at_is_reported_as_such() -> None:
    beats = {
        "mautic_import": LOOKED | {"last_run": NOW},
        "mautic_messages_send": {"rc": 0, "last_success": NOW},
        "mautic_email_fetch": LOOKED | {"skipped": "running"},
    }
    times = dict.fromkeys(("mautic:import", "mautic:messages:send", "mautic:email:fetch"), (300, 3600))
    states = crons.cron_states(times, beats, 0, NOW)
    assert {command: state["looked"] for command, state in states.items()} == {
        "mautic:import": True,
        "mautic:messages:send": False,
        "mautic:email:fetch": False,
    }


def test_jobs_have_run_since_cron_started_or_the_tenant_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx, pid = tmp_path / "nginx", tmp_path / "crond.pid"
    nginx.mkdir()
    seal = nginx / "sealed"
    monkeypatch.setattr(health, "CLOSED", seal)
    monkeypatch.setattr(health, "CRON_RUNS", pid)
    seal.touch()
    os.utime(nginx, (1000, 1000))
    assert health._jobs_run_since() == 1000, "cron does not run"
    pid.touch()
    os.utime(pid, (2000, 2000))
    assert health._jobs_run_since() == 2000
    seal.unlink()
    assert health._jobs_run_since() == nginx.stat().st_mtime > 2000


def told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *rows: list[str],
    open_for: int = 9000,
    config: str = "",
    opened: float = 1000,
    **request: Any,
) -> dict[str, Any]:
    """Return the answer of `health` for a tenant whose database has these rows beside the usual ones.

    `opened`: when it got its identity, and when it was opened last, by the clock of that day.
    """
    others = [["contacts", "0", "0"], ["users", "0", "0"]]

    for name in ("CLOSED", "BEATS", "IDENTITY", "BASELINE", "CRON_RUNS"):
        monkeypatch.setattr(health, name, tmp_path / "none" / name)
    (tmp_path / "none").mkdir()
    health.CRON_RUNS.touch()
    os.utime(health.CRON_RUNS, (time.time() - open_for,) * 2)
    os.utime(tmp_path / "none", (opened, opened))
    (tmp_path / "uptime").write_text(f"{open_for}.00 1.00\n")
    (tmp_path / "crontab").write_text(CRONTAB)
    (tmp_path / "local.php").write_text(config)
    monkeypatch.setattr(health, "LOCAL", tmp_path / "local.php")
    monkeypatch.setattr(health, "UPTIME", tmp_path / "uptime")
    monkeypatch.setattr(health, "CRONTAB", tmp_path / "crontab")
    monkeypatch.setattr(health, "MAUTIC", tmp_path)
    monkeypatch.setattr(health, "read_json", lambda _: {"since": opened})
    monkeypatch.setattr(health, "mautic_version", lambda: "5.2.12")
    monkeypatch.setattr(health, "_unit_states", dict)
    monkeypatch.setattr(health, "login_page", lambda *_: (200, True, 0.1))
    monkeypatch.setattr(health, "_memory", lambda: (0, None))
    unknown = {"used": None, "limit": None, "free": 1 << 30, "why": "it is away"}
    monkeypatch.setattr(health, "measure", lambda _: unknown)
    monkeypatch.setattr(health, "sql", lambda *_, **__: [*others, *rows])
    return health.health(ASKED | request)


@pytest.mark.parametrize(("open_for", "work", "queues", "age"), [(60, True, True, 60), (5000, False, False, 5000)])
def test_work_that_waited_while_the_tenant_was_closed_or_off_is_not_overdue_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_for: int, work: bool, queues: bool, age: int
) -> None:
    found = told(tmp_path, monkeypatch, ["stale_segments", "3"], ["queue", "email", "2", "9000"], open_for=open_for)
    assert (found["checks"]["work"]["ok"], found["checks"]["queues"]["ok"]) == (work, queues)
    assert found["facts"]["queue_age"] == pytest.approx(age, abs=5)
    assert found["facts"]["queues"]["email"]["age"] == 9000


@pytest.mark.parametrize(("awake", "known"), [(0, False), (2600, False), (2800, True)])
def test_what_waited_during_a_gap_in_the_checks_is_neither_overdue_nor_on_time_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, awake: int, known: bool
) -> None:
    found = told(tmp_path, monkeypatch, ["stale_segments", "3"], ["queue", "email", "2", "9000"], awake=awake)
    for name in ("work", "queues"):
        check = found["checks"][name]
        assert (check["ok"], check.get("known", True)) == (not known, known), name
    assert found["facts"]["queue_age"] == pytest.approx(9000, abs=5), "a measurement stays what it is"


def test_jobs_that_have_not_run_since_a_gap_in_the_checks_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(tmp_path, monkeypatch, awake=0)
    text = "2 on time, 3 not run since the checks resumed"
    assert found["checks"]["crons"] == {"ok": True, "text": text, "known": False}
    assert found["healthy"]


def test_what_waits_in_a_tenant_opened_by_a_clock_that_was_ahead_is_overdue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["stale_segments", "3"], ["queue", "email", "2", "9000"]
    found = told(tmp_path, monkeypatch, *rows, open_for=5000, opened=time.time() + 30 * 86_400)
    assert not found["checks"]["work"]["ok"]
    assert not found["checks"]["queues"]["ok"]
    assert found["facts"]["queue_age"] == pytest.approx(5000, abs=5)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (119, "119 s"), (5400, "90 min"), (7200, "2 h")])
def test_a_wait_is_written_in_a_suitable_unit(seconds: float, words: str) -> None:
    assert health.in_minutes(seconds) == words


@pytest.mark.parametrize(
    ("kept", "day", "refused", "ok", "text"),
    [
        ("0", "0", "0", True, "none"),
        ("40", "40", "0", False, "40"),
        ("40", "0", "0", True, "none"),
        ("0", "0", "7", False, "7"),
    ],
)
def test_mails_that_mautic_gave_up_on_fail_the_check_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, day: str, refused: str, ok: bool, text: str
) -> None:
    found = told(tmp_path, monkeypatch, ["failed_mails", kept, day], ["emails_day", "90", refused])
    assert found["checks"]["failed mail"] == {"ok": ok, "text": text}
    assert found["facts"]["failed_mails"] == {"day": int(day) + int(refused), "kept": int(kept)}


@pytest.mark.parametrize(
    ("config", "ok"),
    [("", True), ("'queue_mode' => 'immediate_process',", True), ("'queue_mode' => 'command_process',", False)],
)
def test_queued_webhooks_are_overdue_only_in_command_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, ok: bool
) -> None:
    found = told(tmp_path, monkeypatch, ["webhook_queue", "5"], config=f"<?php $parameters = array({config});")
    assert found["checks"]["work"]["ok"] == ok


def test_the_request_of_a_page_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "INSIDE_SOCKET", tmp_path / "inside.sock")
    with socket.socket(socket.AF_UNIX) as nginx:
        nginx.bind(str(page.INSIDE_SOCKET))
        nginx.listen()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            page.login_page("client-x.test", patience=0.05)
        assert time.monotonic() - began < 30


def test_a_failure_of_systemctl_is_reported_with_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Failed to stop x.service: Unit x.service not loaded.\nSee the logs.\n"
    monkeypatch.setattr(system, "run", lambda *_, **__: subprocess.CompletedProcess([], 5, "", said))
    with pytest.raises(system.CtlError) as raised:
        system.systemctl("stop", "x")
    assert str(raised.value) == "systemctl stop x failed: Failed to stop x.service: Unit x.service not loaded."


def test_a_job_that_needs_setting_up_is_never_late() -> None:
    assert not crons.cron_states({"mautic:email:fetch": (600, 1800)}, {}, NOW - 90_000, NOW)["mautic:email:fetch"][
        "late"
    ]


def test_log_lines_of_level_error_or_worse_are_counted_since_a_time() -> None:
    lines = [
        "[2026-01-02T15:29:17.146111+00:00] mautic.ERROR: one [] []",
        "[2026-01-02T15:29:18.146111+00:00] mautic.NOTICE: none [] []",
        "[2026-01-02T15:29:19.146111+00:00] mautic.CRITICAL: two [] []",
        "[2026-01-01T00:00:00.000000+00:00] mautic.ERROR: too old [] []",
        "  #0 mautic.ERROR: a line of a stack trace",
        "[2026-01-02T15:29:20.146111+00:00] messenger.CRITICAL: three [] []",
        "[2026-01-02T15:29:21.146111+00:00] request.ERROR: Uncaught PHP Exception NotFoundHttpException [] []",
        "[2026-01-02T15:29:22.146111+00:00] request.CRITICAL: four [] []",
    ]
    assert health.count_errors(lines, "2026-01-02T00:00:00+00:00") == 4


def test_migration_figures_are_read_from_the_status_table() -> None:
    status = """
| Migrations           | Executed             | 0                                     |
|                      | Executed Unavailable | 3                                     |
|                      | Available            | 42                                    |
|                      | New                  | 42                                    |
"""
    assert install.migration_figures(status) == {"executed": 0, "available": 42, "new": 42}


@pytest.mark.parametrize(
    ("value", "literal"), [("plain", "'plain'"), ("it's", r"'it\'s'"), ("a\\' OR 1", r"'a\\\' OR 1'"), ("é\n", "'é\n'")]
)
def test_values_cannot_leave_their_sql_literal(value: str, literal: str) -> None:
    assert system.sql_text(value) == literal


def test_a_nul_is_refused_as_a_value_for_the_database() -> None:
    with pytest.raises(system.CtlError, match="NUL"):
        system.sql_text("a\0b")


def test_only_the_domain_itself_is_a_trusted_host() -> None:
    assert parameters.trusted_host("m.client.tld") == r"^m\.client\.tld$"


@pytest.mark.parametrize(
    ("fresh", "named", "sender"),
    [
        (True, {}, {"mailer_from_email": "a@x.test", "mailer_from_name": "m.x.test"}),
        (
            True,
            {"first_name": "Ada", "last_name": "Byron"},
            {"mailer_from_email": "a@x.test", "mailer_from_name": "Ada Byron"},
        ),
        (False, {}, {}),
    ],
)
def test_only_a_new_tenants_mail_is_from_its_admin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool, named: dict[str, str], sender: dict[str, str]
) -> None:
    """Later the sender is whatever the client has set."""
    written: list[dict[str, Any]] = []

    def write(local: dict[str, Any], _: object) -> None:
        written.append(local)
        raise CtlError("enough")

    monkeypatch.setattr(identity, "CLOSED", tmp_path / "sealed")
    if fresh:
        identity.CLOSED.touch()
    for name in ("mautic_version", "delete_identity_files", "rename_machine", "write_sizes", "take_slot", "write"):
        monkeypatch.setattr(identity, name, lambda *_, **__: None)
    monkeypatch.setattr(identity, "read_json", lambda _: {})
    monkeypatch.setattr(identity, "write_parameters", write)
    request = {
        "hostname": "x", "domain": "m.x.test", "site_url": "https://m.x.test", "db_password": "p",
        "admin": {"username": "admin", "email": "a@x.test", "password": "p" * 20} | named,
        "secret_key": "0" * 64, "innodb_buffer_pool": "64M", "fpm_children": 1, "email_workers": 1,
    }  # fmt: skip
    with pytest.raises(CtlError, match="enough"):
        identity.identity(request)
    own = {"db_password": "p", "secret_key": "0" * 64, "site_url": "https://m.x.test"}
    assert written == [own | sender]


@pytest.mark.parametrize(("size", "expected"), [("768M", 768 << 20), ("3G", 3 << 30), ("1024", 1024)])
def test_sizes_are_read_as_mariadb_reads_them(size: str, expected: int) -> None:
    assert sizes.bytes_of(size) == expected


@pytest.mark.parametrize("size", ["", "0M", "1GiB", "1 G", "-1M"])
def test_a_size_that_mariadb_would_not_accept_is_refused(size: str) -> None:
    with pytest.raises(system.CtlError, match="not a size"):
        sizes.bytes_of(size)


@pytest.mark.parametrize(
    ("plan", "grows", "first"),
    [("64M", True, "64M"), ("768M", True, "128M"), ("3G", True, "384M"), ("12G", True, "1536M"), ("12G", False, "12G")],
)
def test_a_buffer_pool_starts_with_part_of_its_size_if_it_can_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, grows: bool, first: str
) -> None:
    monkeypatch.setattr(sizes, "GROWS", tmp_path / "mautic-pool")
    if grows:
        sizes.GROWS.touch()
    assert sizes.first_size(sizes.bytes_of(plan)) == sizes.bytes_of(first)


def test_nginx_trusts_only_the_edge() -> None:
    conf = edge.edge_conf("10.0.0.2")
    assert "10.0.0.2 1;" in conf
    assert "set_real_ip_from 10.0.0.2;" in conf
    assert "set_real_ip_from" not in edge.edge_conf("")


def test_a_file_is_replaced_with_its_mode_and_without_following_a_planted_link(tmp_path: Path) -> None:
    target, victim = tmp_path / "result", tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".result.new").symlink_to(victim)
    system.write(target, "answer", 0o600)
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("answer", 0o600)
    assert victim.read_text() == "untouched"


def test_a_missing_field_of_a_request_is_named() -> None:
    with pytest.raises(system.CtlError, match="lacks `domain`"):
        system.asked({"hostname": "client-x", "domain": ""}, "hostname", "domain")


def _ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: str) -> dict[str, object]:
    """Run the tool's `version` on a request and return its answer."""
    monkeypatch.setattr(main, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(system, "MAUTIC", tmp_path)
    (of, asking), (answered, to) = os.pipe(), os.pipe()
    os.close(asking)
    main.main("version", request.encode(), Wire(of, to))
    os.close(to)
    with open(of), open(answered) as answer:
        found: dict[str, object] = json.loads(answer.read())
    return found


def test_the_version_is_read_from_the_release_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/release_metadata.json").write_text('{"version": "5.2.12+double"}')
    assert _ask(tmp_path, monkeypatch, "{}") == {"ok": True, "version": "5.2.12+double", "double": True}


def test_a_failure_is_answered_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ask(tmp_path, monkeypatch, "{}") == {"ok": False, "error": f"there is no Mautic in {tmp_path}"}


def test_an_unexpected_error_is_named_without_revealing_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = _ask(tmp_path, monkeypatch, '{"password": "hunter2"')
    assert answer["ok"] is False
    assert "JSONDecodeError" in str(answer["error"])
    assert "hunter2" not in json.dumps(answer)


def test_every_verb_has_a_function_and_a_shape_of_its_answer() -> None:
    for place in main.VERBS.values():
        module, _, function = place.partition(".")
        assert callable(getattr(import_module(f"bot.guest.blueprint.mautic_ctl.{module}"), function))
    assert main.VERBS.keys() > main.SIDE_BY_SIDE > main.SPEAK
    assert main.VERBS.keys() == SHAPES.keys() - {"let go", "taking"}, "the bot accepts answers of these shapes only"


@pytest.fixture
def sent(tmp_path: Path) -> tuple[list[str], bytes]:
    """The command that runs in a tenant, and the bytes that are sent to it."""
    found: list[tuple[list[str], bytes]] = []

    def speak(_: SimulatedLxd, __: str, command: list[str], sent: bytes) -> Iterator[bytes]:
        found.append((command, sent))
        yield b'{"ok": true, "version": "5"}'

    lxd = SimulatedLxd(speak=speak)
    (tmp_path / "image").write_bytes(b"image")
    lxd.import_image(str(tmp_path / "image"), "base", {})
    lxd.create("client-x", "base", config={}, devices={})
    lxd.start("client-x")
    Mautic(lxd).call("client-x", "version", {})
    return found[0]


def test_the_sent_code_runs_on_python_alone(sent: tuple[list[str], bytes]) -> None:
    command, text = sent
    ended = subprocess.run([sys.executable, "-I", *command[1:]], input=text, capture_output=True, cwd="/")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout) == {"ok": False, "error": "there is no Mautic in /var/www/mautic"}


def test_an_unknown_verb_is_reported(sent: tuple[list[str], bytes]) -> None:
    command, text = sent
    ended = subprocess.run([sys.executable, "-I", *command[1:-1], "dance"], input=text, capture_output=True, cwd="/")
    assert json.loads(ended.stdout) == {"ok": False, "error": "there is no verb dance"}


def test_the_tool_exits_only_when_the_caller_closes_the_connection(sent: tuple[list[str], bytes]) -> None:
    command, text = sent
    with subprocess.Popen(
        [sys.executable, "-I", *command[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    ) as tool:
        assert tool.stdin is not None
        assert tool.stdout is not None
        tool.stdin.write(text)
        tool.stdin.flush()
        assert json.loads(tool.stdout.readline())["ok"] is False
        assert tool.poll() is None
        tool.stdin.close()
        assert tool.wait(60) == 0


def test_an_answer_with_invalid_text_is_still_sent() -> None:
    of, to = os.pipe()
    Wire(of, to).tell({"error": "\ud800"})
    os.close(to)
    with open(of) as answer:
        assert json.loads(answer.read()) == {"error": "?"}


@pytest.mark.parametrize(("word", "kept"), [(b"\n", True), (b"", False)])
def test_the_backup_lock_lasts_until_a_word_or_until_the_caller_is_gone(
    tmp_path: Path, word: bytes, kept: bool
) -> None:
    (tmp_path / "mariadb").write_text(
        f'#!/bin/sh\nwhile read -r line; do echo "$line" >> {tmp_path}/asked; echo done; done\n'
    )
    (tmp_path / "mariadb").chmod(0o755)
    hold = f"""
from pathlib import Path
from bot.guest.blueprint.mautic_ctl import main, system, wire
system.ENVIRONMENT["PATH"] = "{tmp_path}:/usr/bin:/bin"
main.LOCK = Path("{tmp_path}/lock")
main.main("backup_lock", b"{{}}", wire.Wire(0, 1))
"""
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(logs.__file__).parents[4]
    ) as tool:
        assert tool.stdin is not None
        assert tool.stdout is not None
        assert json.loads(tool.stdout.readline()) == {"ok": True, "held": True, "why": ""}
        assert "BACKUP STAGE END" not in (tmp_path / "asked").read_text()
        tool.stdin.write(word)
        tool.stdin.flush()
        if not word:
            tool.stdin.close()
        assert json.loads(tool.stdout.readline()).items() >= {"ok": True, "kept": kept}.items()
        assert "BACKUP STAGE END" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("piece", ["a", "secret", "password=", "://a:", 'token="', "x_secret ", "secret" + " " * 99])
def test_a_long_line_is_masked_at_once(piece: str) -> None:
    """Visitors can write into a log. Masking once took 52 s for 40 kB, growing with the square of the length."""
    mask = (
        f"from bot.guest.blueprint.mautic_ctl.logs import masked; masked({piece!r} * (1_000_000 // {len(piece)}), [])"
    )
    subprocess.run([sys.executable, "-c", mask], check=True, timeout=60, cwd=Path(logs.__file__).parents[4])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("db_password => 'hunter2 three'", "db_password => ***"),
        ('{"api_key":"abc","user":"x"}', '{"api_key":***,"user":"x"}'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("a_client_secret_2: hunter2", "a_client_secret_2: ***"),
        ("smtp://mailer:hunter2@mail.example.test:25", "smtp://mailer:***@mail.example.test:25"),
        ("connecting with s3cr3t-value now", "connecting with *** now"),
        ("Invalid CSRF token. Nothing else", "Invalid CSRF token. Nothing else"),
    ],
)
def test_secrets_are_masked_in_log_lines(line: str, shown: str) -> None:
    assert logs.masked(line, ["s3cr3t-value"]) == shown


def test_the_last_lines_of_a_log_include_those_before_midnight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mautic_prod-2026-01-01.php").write_text("one\ntwo\n")
    (tmp_path / "mautic_prod-2026-01-02.php").write_text("three\n")
    monkeypatch.setitem(logs.FILES, "mautic", (tmp_path, logs.MAUTICS))
    monkeypatch.setattr(logs, "known_secrets", lambda: [])
    assert logs.logs({"what": "mautic", "lines": 2})["text"] == "two\nthree"
    with pytest.raises(system.CtlError, match="there is no log vault"):
        logs.logs({"what": "vault", "lines": 2})


def test_the_applications_log_is_merged_into_mautics_own_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the application's log says why a mail was not sent."""
    own = "[2026-01-01T10:00:00+00:00] mautic.ERROR: a [] []\n[2026-01-01T12:00:00+00:00] mautic.ERROR: c [] []\n"
    others = "[2026-01-01T11:00:00+00:00] messenger.CRITICAL: b [] []\n[stacktrace]\n#0 of b\n"
    (tmp_path / "mautic_prod-2026-01-01.php").write_text(own)
    (tmp_path / "prod-2026-01-01.php").write_text(others)
    monkeypatch.setitem(logs.FILES, "mautic", (tmp_path, logs.MAUTICS))
    monkeypatch.setattr(logs, "known_secrets", lambda: [])
    first, second = own.splitlines()
    assert logs.logs({"what": "mautic", "lines": 5})["text"].splitlines() == [first, *others.splitlines(), second]


def test_an_edge_must_be_an_address() -> None:
    assert edge.checked_address("10.0.0.2") == "10.0.0.2"
    with pytest.raises(system.CtlError):
        edge.checked_address("10.0.0.2; }")


def test_no_page_is_requested_while_the_database_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mautic would log an error each time, and the tenant would count as degraded for a day after a restore."""
    monkeypatch.setattr(database, "SOCKET", tmp_path / "mysqld.sock")
    monkeypatch.setattr(page, "login_page", lambda *_: pytest.fail("it was asked for"))
    with pytest.raises(system.CtlError, match="MariaDB did not start"):
        page.wait_for_page({"seconds": 0.1})
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(database.SOCKET))
        server.listen()
        monkeypatch.setattr(page, "login_page", lambda *_: (200, True, 0.1))
        assert page.wait_for_page({"seconds": 0.1})["seconds"] >= 0


@pytest.fixture
def around_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that are run, in order, in a tenant with two workers of which one is active."""
    done: list[str] = []

    def run(*words: str, **_: object) -> subprocess.CompletedProcess[str]:
        if "is-active" not in words:
            done.append(" ".join(word for word in words if word not in ("systemctl", "--quiet", "--collect")))
        return subprocess.CompletedProcess(words, 3 if "mautic-worker@email-2.service" in words else 0, "", "")

    def sql(statements: str, **_: object) -> list[list[str]]:
        done.append({access.FLUSH_FAST: "flush", access.FLUSH_AS_EVER: "flush as ever"}.get(statements, "dirty pages?"))
        return [["Innodb_buffer_pool_pages_dirty", "0"]]

    monkeypatch.setattr(access, "sql", sql)
    monkeypatch.setattr(access, "RESTED", tmp_path / "rested.json")
    monkeypatch.setattr(access, "systemctl", lambda *words: done.append(" ".join(words)))
    monkeypatch.setattr(access, "run", run)
    monkeypatch.setattr(access, "start_database", lambda verb: done.append(f"{verb} database"))
    monkeypatch.setattr(access, "end_jobs", lambda patience: done.append(f"jobs end within {patience} s"))
    monkeypatch.setattr(access, "workers", lambda: ["mautic-worker@email.service", "mautic-worker@email-2.service"])
    return done


def test_before_the_database_restarts_jobs_and_workers_end_and_pages_wait(around_the_database: list[str]) -> None:
    """An import that loses the database stays half done for hours, and then its file is deleted."""
    access.restart_database()
    assert around_the_database == [
        "flush",
        "stop cron mautic-worker@email.service",
        "jobs end within 20 s",
        "dirty pages?",
        f"systemd-run --on-active=60 kill --signal=CONT {system.FPM}",
        f"kill --signal=STOP {system.FPM}",
        "restart database",
        f"kill --signal=CONT {system.FPM}",
        "start --no-block cron mautic-worker@email.service",
        "flush as ever",
    ]
    assert not access.RESTED.exists()


def test_a_database_that_hangs_is_restarted_all_the_same(
    around_the_database: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("mariadb", 5)

    monkeypatch.setattr(access, "sql", hang)
    access.restart_database()
    assert "restart database" in around_the_database


def test_pages_and_workers_continue_if_the_database_does_not_start(
    around_the_database: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_verb: str) -> None:
        raise system.CtlError("MariaDB did not start within 60 s")

    monkeypatch.setattr(access, "start_database", refuse)
    with pytest.raises(system.CtlError):
        access.restart_database()
    assert around_the_database[-3:] == [
        f"kill --signal=CONT {system.FPM}",
        "start --no-block cron mautic-worker@email.service",
        "flush as ever",
    ]


def test_units_that_a_killed_attempt_stopped_are_started_by_the_next(
    around_the_database: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LXD kills the tool when the bot ends, and the stopped units no longer show which of them were active."""
    access.RESTED.write_text(json.dumps(["cron", "mautic-worker@email.service"]))
    monkeypatch.setattr(access, "workers", list)
    monkeypatch.setattr(access, "systemctl", lambda *words: around_the_database.append(" ".join(words)))
    access.restart_stopped()
    access.restart_stopped()
    assert around_the_database == [
        f"kill --signal=CONT {system.FPM}",
        "start --no-block cron mautic-worker@email.service",
        "flush as ever",
    ]


def test_a_job_that_waits_for_its_second_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weekly job would be lost; and when its second has come, the job checks whether the tenant is closed."""
    fifo, job = tmp_path / "wait", tmp_path / "mautic-cron"
    os.mkfifo(fifo)
    job.write_text('#!/bin/bash\nread -r -t 60 <>"$1"\nsleep 60\n')
    job.chmod(0o755)
    monkeypatch.setattr(jobs, "WAITING", str(fifo))
    with subprocess.Popen([job, fifo], stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            waits = Path(f"/proc/{process.pid}/fd/0")
            until(lambda: os.readlink(waits) == str(fifo))
            assert process.pid not in jobs._jobs()
            with fifo.open("w") as goes_on:
                goes_on.write("\n")
            until(lambda: process.pid in jobs._jobs())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_while_outbound_mail_is_off_no_job_sends_and_workers_take_page_hits_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Path(outbound.__file__).parents[1] / "files/tenant/etc/cron.d/mautic"
    crontab = tmp_path / "crontab"
    crontab.write_text(shipped.read_text())

    def enabled() -> set[str]:
        return set(re.findall(r"^[^#\n]*mautic-cron \d+ \d+ (\S+)", crontab.read_text(), re.MULTILINE))

    all_of_them = enabled()
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(outbound, "CRONTAB", crontab)
    monkeypatch.setattr(outbound, "OFF", tmp_path / "off")
    monkeypatch.setattr(outbound, "DROP_IN", tmp_path / "mautic-worker@.service.d/off.conf")
    monkeypatch.setattr(outbound, "systemctl", lambda *words: calls.append(words))
    monkeypatch.setattr(outbound, "end_senders", lambda: None)
    for _ in range(2):
        outbound._hold()
        assert all_of_them - enabled() == set(jobs.SENDERS)
    assert outbound.DROP_IN.read_text().splitlines()[-1] == "ExecStart=/usr/local/bin/mautic-worker hit"
    assert calls[:2] == [("daemon-reload",), ("try-restart", "mautic-worker@*")]
    outbound._let_go()
    assert crontab.read_text() == shipped.read_text()
    assert not outbound.OFF.exists()
    assert not outbound.DROP_IN.exists()


@pytest.mark.parametrize(
    ("choice", "waits", "worked", "was_off", "becomes"),
    [
        ("", 30, 20 * 86_400, False, "off"),
        ("", 30, 60, False, "send"),
        ("", 0, 20 * 86_400, False, "send"),
        ("", 0, 60, True, "off"),
        ("send", 30, 20 * 86_400, True, "send"),
        ("drop", 30, 60, False, "drop"),
        ("back", 0, 60, False, "back"),
    ],
)
def test_without_a_choice_mail_is_kept_back_if_no_job_has_succeeded_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, waits: int, worked: float, was_off: bool, becomes: str
) -> None:
    done: list[str] = []
    beat = tmp_path / "cron"
    beat.mkdir()
    (beat / "mautic_import.json").write_text(json.dumps({"last_success": time.time() - worked}))
    for name in ("OFF", "MUTE", "CLOSED"):
        monkeypatch.setattr(outbound, name, tmp_path / name)
    if was_off:
        outbound.OFF.touch()
    monkeypatch.setattr(outbound, "BEATS", beat)
    for name in ("await_systemd", "start_database"):
        monkeypatch.setattr(outbound, name, lambda: None)
    monkeypatch.setattr(outbound, "systemctl", lambda *_: None)
    monkeypatch.setattr(outbound, "_counted", lambda: {"waits": waits, "oldest": 0, "kinds": {"broadcasts": 0}})
    monkeypatch.setattr(outbound, "_hold", lambda: done.append("hold"))
    monkeypatch.setattr(outbound, "_let_go", lambda: done.append("let go"))
    monkeypatch.setattr(outbound, "_drop", lambda batch: done.append("drop") or 30)
    monkeypatch.setattr(outbound, "_bring_back", lambda _: done.append("bring back"))
    answer = outbound.release({"choice": choice, "late": 3600, "batch": 7})
    assert answer["choice"] == becomes
    assert (
        done
        == {
            "off": ["hold"],
            "send": ["let go"],
            "drop": ["hold", "drop", "let go"],
            "back": ["hold", "bring back"],
        }[becomes]
    )


@pytest.mark.parametrize("asked", [{}, {"page": 0}, {"page": 90}])
def test_waiting_mail_is_settled_before_the_page_is_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, int]
) -> None:
    done: list[object] = []
    for name in ("OFF", "DROP_IN"):
        monkeypatch.setattr(outbound, name, tmp_path / name)
    for name in ("await_systemd", "start_database"):
        monkeypatch.setattr(outbound, name, lambda: None)
    monkeypatch.setattr(outbound, "systemctl", lambda *_: None)
    monkeypatch.setattr(outbound, "_counted", lambda: {"waits": 0, "oldest": 0, "kinds": {"broadcasts": 0}})
    monkeypatch.setattr(outbound, "_let_go", lambda: done.append("let go"))
    monkeypatch.setattr(outbound, "wait_for_page", lambda request: done.append(request))
    monkeypatch.setattr(outbound, "CLOSED", tmp_path / "sealed")
    outbound.CLOSED.touch()
    outbound.release({"choice": "send", **asked})
    assert done == ["let go", *([{"seconds": 90}] if asked.get("page") else [])]
    outbound.CLOSED.unlink()
    if asked.get("page"):
        with pytest.raises(CtlError, match="open before its time"):
            outbound.release({"choice": "send", **asked})


def test_an_interrupted_release_of_mail_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd uses units as it last read them: with the marker deleted too soon, workers would stay without mail."""
    told: list[tuple[str, ...]] = []

    def systemctl(*words: str) -> None:
        told.append(words)
        if len(told) == 1:
            raise CtlError("systemd does not answer")

    for name in ("CRONTAB", "OFF", "DROP_IN"):
        monkeypatch.setattr(outbound, name, tmp_path / name)
        (tmp_path / name).touch()
    monkeypatch.setattr(outbound, "systemctl", systemctl)
    with pytest.raises(CtlError):
        outbound._let_go()
    outbound._let_go()
    assert told[1:] == [("daemon-reload",), ("try-restart", "mautic-worker@*")]


@pytest.mark.parametrize(("inconsistent", "used"), [("1", None), ("0", 5 << 20), (None, 5 << 20)])
def test_disk_usage_is_unknown_while_quotas_are_inconsistent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inconsistent: str | None, used: int | None
) -> None:
    """Kernels before 6.1 do not report the inconsistency."""
    filesystem = uuid.uuid4()
    group = tmp_path / str(filesystem) / "qgroups" / "0_300"
    group.mkdir(parents=True)
    for name, figure in {
        "referenced": 4 << 20,
        "rsv_data": 1 << 20,
        "max_referenced": 8 << 20,
        "limit_flags": 1,
    }.items():
        (group / name).write_text(f"{figure}\n")
    if inconsistent:
        (group.parent / "inconsistent").write_text(f"{inconsistent}\n")
    monkeypatch.setattr(disk, "QGROUPS", tmp_path)
    monkeypatch.setattr(disk, "_subvolume", lambda: (filesystem, 300))
    told = disk.measure({"used": 1, "limit": 2})
    assert (told["used"], told["limit"]) == (used, 8 << 20)
    assert ("no limit holds" in told["why"]) == (used is None)
    assert (told["free"] > 8 << 20) == (used is None), "the free space of the whole pool"
