"""First credentials: one person sees them once; nobody finds them anywhere else."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from pathlib import Path

import pytest

from bot.model.actor import Actor
from bot.model.plan import Refused
from bot.slack.messages import Modal
from bot.store import audit
from schedules.expiry import expiry
from tests.support.bot import ASKER, LEAD, Bench, make_bench, make_desk


@pytest.fixture
def bench(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.DEBUG)
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def password(bench: Bench) -> str:
    return revealed(bench)["password"]


def revealed(bench: Bench, tenant: str = "client-x", actor: Actor = ASKER) -> dict[str, str]:
    with bench.context.vault.reveal(tenant, actor.id) as known:
        return known


def test_credentials_are_revealed_once_to_the_requester_of_the_tenant(bench: Bench) -> None:
    with pytest.raises(Refused, match=f"Only <@{ASKER.id}>, who requested"):
        revealed(bench, actor=LEAD)
    known = revealed(bench)
    assert (known["username"], len(known["password"]) >= 20) == ("admin", True)
    with pytest.raises(Refused, match="it was collected"):
        revealed(bench)
    assert audit.recent(bench.context.database, limit=1)[0]["event"] == "credentials.revealed"


def test_credentials_are_stored_only_encrypted(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    exported = "".join(audit.export(bench.context.database))
    secret = password(bench)
    bench.done("delete client-x", LEAD)
    later = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert secret.encode() not in files + later
    assert secret not in exported + caplog.text
    assert secret not in json.dumps([dict(row) for row in audit.recent(bench.context.database, limit=100)])


def test_with_a_limit_of_zero_hours_credentials_wait_until_they_are_revealed(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_RETENTION__CREDENTIALS_HOURS="0")
    bench.done("new client-x")
    bench.clock.move(4000 * 86_400)
    bench.context.vault.purge()
    assert len(password(bench)) >= 20


@pytest.mark.parametrize("method", ["views.open", "views.update"])
@pytest.mark.parametrize("trouble", ["internal_error", TimeoutError("timed out")])
def test_credentials_that_slack_did_not_show_are_not_lost(bench: Bench, method: str, trouble: str | Exception) -> None:
    desk = make_desk(bench)
    desk.slack.fail(method, trouble)
    desk.command("credentials client-x")
    assert "Slack did not open the window" in desk.slack.to(ASKER.id)[-1]
    assert audit.recent(bench.context.database, limit=1)[0]["event"] == "command.refused"
    desk.command("credentials client-x")
    assert "*Password:*" in str(desk.slack.views[-1])


def test_of_many_simultaneous_presses_one_reveals_the_credentials_and_is_audited(bench: Bench) -> None:
    """All presses have seen that the credentials wait before the first one reveals them."""
    together = threading.Barrier(6)
    shown: list[str] = []

    def press(_: int) -> None:
        waiting = bench.context.vault._waiting

        def slow(tenant: str, actor: str) -> sqlite3.Row:
            found = waiting(tenant, actor)
            together.wait(30)
            return found

        vault = copy(bench.context.vault)
        vault._waiting = slow  # type: ignore[method-assign]
        with suppress(Refused), vault.reveal("client-x", ASKER.id) as known:
            shown.append(known["password"])

    with ThreadPoolExecutor(6) as presses:
        list(presses.map(press, range(6)))
    assert len(shown) == 1
    rows = bench.context.database.read("SELECT 1 FROM audit WHERE event = 'credentials.revealed'")
    assert len(rows) == 1


def test_credentials_are_not_shown_while_that_cannot_be_audited(bench: Bench) -> None:
    with bench.context.database.transaction() as transaction:
        transaction.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.event = 'credentials.revealed'"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    desk = make_desk(bench)
    for _ in range(3):
        desk.command("credentials client-x")
    assert "Password" not in str(desk.slack.views)
    with bench.context.database.transaction() as transaction:
        transaction.execute("DROP TRIGGER full")
    desk.command("credentials client-x")
    assert "*Password:*" in str(desk.slack.views[-1])


def test_revealed_credentials_are_erased_from_the_database_files(bench: Bench, tmp_path: Path) -> None:
    (row,) = bench.context.database.read("SELECT ciphertext FROM secrets")
    held = bytes(row["ciphertext"])

    def found() -> bool:
        return any(held in file.read_bytes() for file in tmp_path.glob("bot.db*"))

    assert found()
    # A reader keeps the log beside the database from being emptied meanwhile.
    reader = sqlite3.connect(tmp_path / "bot.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM secrets").fetchall()
    password(bench)
    reader.close()
    expiry(bench.context)
    assert not found()


def test_a_clock_that_is_ahead_deletes_no_credentials(bench: Bench) -> None:
    bench.clock.set(40 * 86_400)
    bench.context.vault.purge()
    bench.clock.move(71 * 3600)
    bench.context.vault.purge()
    assert len(password(bench)) >= 20


def test_credentials_in_a_database_without_elapsed_time_keep_waiting(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    with bench.context.database.transaction() as transaction:
        for column in ("made",):
            transaction.execute(f"ALTER TABLE secrets DROP COLUMN {column}")
        transaction.execute("DELETE FROM _sqlite_migrations WHERE name = 'm022_held_since'")
        for table in ("lived", "stretches"):
            transaction.execute(f"DELETE FROM {table}")
    bench.context.database.close()
    again = make_bench(tmp_path, bench.lxd)
    again.clock.move(71 * 3600)
    again.context.vault.purge()
    assert len(password(again)) >= 20


def test_the_modal_shows_the_credentials_only_after_it_has_opened(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(bench)
    desk.command("credentials client-x")
    opening, shown = desk.slack.views
    assert "Password" not in str(opening)
    assert "*Password:*" in str(shown)
    desk.command("credentials client-x")
    assert "it was collected" in desk.slack.to(ASKER.id)[-1]
    assert "Password" not in str(desk.slack.said)


def test_a_failed_operation_leaves_no_credentials(bench: Bench) -> None:
    bench.lxd.fail_next("execute", OSError("broken"))
    assert bench.done("new client-y").state == "failed"
    assert bench.context.database.read("SELECT 1 FROM secrets WHERE tenant = 'client-y'") == []


def test_nobody_sees_the_credentials_before_the_tenant_is_live(bench: Bench) -> None:
    operation = bench.approve(bench.ask("new client-y"))
    bench.context.vault.ensure(operation.id, "client-y", ASKER.id, 72, username="admin")
    with pytest.raises(Refused, match="it was collected, has expired, or the tenant is not finished"):
        revealed(bench, "client-y")


def test_credentials_that_nobody_collects_are_deleted(bench: Bench) -> None:
    bench.clock.move(72 * 3600)
    with pytest.raises(Refused, match="it was collected, has expired, or the tenant is not finished"):
        password(bench)
    bench.context.vault.purge()
    assert bench.context.database.read("SELECT 1 FROM secrets") == []


def test_the_key_file_is_accessible_to_the_bot_only_and_survives_a_restart(bench: Bench, tmp_path: Path) -> None:
    key = tmp_path / "vault.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert revealed(make_bench(tmp_path, bench.lxd))["username"] == "admin"


def test_a_replaced_key_file_is_reported(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "vault.key").unlink()
    again = make_bench(tmp_path, bench.lxd)
    with pytest.raises(Refused, match="key file was replaced"):
        revealed(again)


def test_the_answer_of_the_command_contains_no_secret(bench: Bench) -> None:
    answer = bench.answer("credentials client-x", ASKER)
    assert isinstance(answer, Modal)
    assert "Password" not in json.dumps(answer.view)
