"""A lost, cut or damaged database is reported, with the last head of the audit log that was posted to Slack."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bot.checks import WEEK
from bot.program import main
from bot.slack.poster import NotPosted
from bot.store import audit
from bot.store.database import Database, DatabaseDamaged
from schedules.health import health
from schedules.integrity import integrity
from tests.support.bot import LEAD, OPERATOR, Bench, Desk, make_bench, make_desk

CHANNEL = {"MAUTIC_OPS_SLACK__CHANNEL": "C0OPS"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return a desk with a request whose card is in Slack."""
    made = make_desk(make_bench(tmp_path / "state", **CHANNEL))
    made.command("new client-x")
    made.announce()
    return made


def again(desk: Desk, folder: Path) -> Bench:
    return make_bench(folder, desk.bench.lxd, slack=desk.slack, **CHANNEL)


def told(bench: Bench) -> str:
    """Run the job and a sweep twice; return what is open about the log. The sweep does not touch that incident."""
    for _ in range(2):
        integrity(bench.context)
        health(bench.context)
    return " ".join(one.text for one in bench.context.incidents.open() if one.kind == "audit")


def test_a_log_that_contains_what_was_posted_to_slack_is_intact(desk: Desk) -> None:
    desk.bench.approve(desk.last())
    desk.bench.finish()
    desk.announce()
    assert told(desk.bench) == ""
    assert "Audit log intact" in json.dumps(desk.bench.answer("audit verify", LEAD).blocks)


@pytest.mark.parametrize("how", ["deleted", "of yesterday", "cut"])
def test_a_log_that_lacks_what_was_posted_to_slack_is_an_incident_with_the_last_head(
    desk: Desk, tmp_path: Path, how: str
) -> None:
    state, context = tmp_path / "state", desk.bench.context
    with sqlite3.connect(tmp_path / "yesterday.db") as copy:
        sqlite3.connect(state / "bot.db").backup(copy)
    copy.close()
    desk.bench.approve(desk.last())
    desk.bench.finish()
    desk.announce()
    first = context.post.heads("C0OPS", since=0).seen[0]
    assert first == audit.newest(context.database)
    if how == "cut":
        with context.database.transaction() as transaction:
            transaction.execute("DROP TRIGGER audit_is_append_only_delete")
            transaction.execute("DELETE FROM audit WHERE seq > 2")
    context.database.close()
    if how != "cut":
        for file in state.glob("bot.db*"):
            file.unlink()
    if how == "of yesterday":
        shutil.copy(tmp_path / "yesterday.db", state / "bot.db")
    bench = again(desk, state)
    seq, _, begin = first.partition(":")
    said = told(bench)
    assert f"entry {seq} (`{begin}`) is missing" in said
    assert begin in json.dumps(bench.answer("doctor", OPERATOR).blocks)
    verified = json.dumps(bench.answer("audit verify", LEAD).blocks)
    assert f"entry {seq} with the hash {begin}, which the bot posted to Slack, is missing" in verified
    # The messages about it contain heads of the new log, which must not hide the loss.
    bench.context.incidents.announce()
    assert begin in told(bench)
    bench.clock.move(WEEK + 3600)
    desk.slack.said.clear()
    assert told(bench) == ""


def lose(desk: Desk, state: Path) -> Bench:
    """Delete the database; return the bot that starts without it."""
    desk.bench.context.database.close()
    for file in state.glob("bot.db*"):
        file.unlink()
    return again(desk, state)


def test_many_messages_in_the_channel_do_not_hide_a_lost_log(desk: Desk, tmp_path: Path) -> None:
    desk.slack.chatter(500)
    assert "is missing" in told(lose(desk, tmp_path / "state"))


def test_a_channel_too_busy_to_look_back_raises_no_alarm_and_proves_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk.slack.chatter(500)
    monkeypatch.setattr("bot.slack.poster.PAGES", 2)
    busy = "The bot's channel is too busy to look back a week"
    assert told(desk.bench) == ""
    assert busy in caplog.text
    verified = json.dumps(desk.bench.answer("audit verify", LEAD).blocks)
    assert busy in verified
    assert "intact" not in verified
    monkeypatch.undo()
    bench = lose(desk, tmp_path / "state")
    alarm = told(bench)
    assert "is missing" in alarm
    monkeypatch.setattr("bot.slack.poster.PAGES", 2)
    assert told(bench) == alarm, "an open incident stays"


def test_a_new_log_is_reported_even_if_nothing_was_posted_to_slack(tmp_path: Path) -> None:
    make_bench(tmp_path).context.database.close()
    for file in tmp_path.glob("bot.db*"):
        file.unlink()
    bench = make_bench(tmp_path)
    assert "The bot started with a new database, but had one before" in told_of_today(bench)
    assert audit.recent(bench.context.database)[-1]["event"] == "audit.began_anew"


def told_of_today(bench: Bench) -> str:
    """Call `told` at the time of the first entry, which was taken from the machine's own clock."""
    bench.clock.at = float(bench.context.database.read("SELECT at FROM audit WHERE seq = 1")[0]["at"])
    return told(bench)


def test_a_new_bot_has_lost_nothing(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, **CHANNEL)
    assert told(bench) == ""
    assert audit.recent(bench.context.database) == []


def test_without_an_answer_of_slack_the_incident_stays_open(desk: Desk, tmp_path: Path) -> None:
    desk.bench.context.database.close()
    for file in (tmp_path / "state").glob("bot.db*"):
        file.unlink()
    bench = again(desk, tmp_path / "state")
    assert told(bench)
    desk.slack.fail("conversations.history", TimeoutError())
    with pytest.raises(NotPosted):
        integrity(bench.context)
    desk.slack.fail("conversations.history", TimeoutError())
    assert "intact" not in json.dumps(bench.answer("audit verify", LEAD).blocks)
    health(bench.context)
    assert [one.kind for one in bench.context.incidents.open()] == ["audit"]


def test_metadata_of_another_app_is_not_taken_for_a_head(desk: Desk) -> None:
    metadata = {"event_type": "mautic_post", "event_payload": {"key": "x", "audit": "9:0123456789abcdef"}}
    desk.slack.said.append(
        {"channel": "C0OPS", "user": "U0OTHERAPP", "text": "x", "ts": "1.2", "method": "x", "metadata": metadata}
    )
    assert told(desk.bench) == ""


def damage(file: Path, table: str) -> None:
    """Overwrite the root page of a table, as a failing disk does."""
    with sqlite3.connect(file) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    with file.open("r+b") as raw:
        raw.seek((page - 1) * size)
        raw.write(b"\x5a" * size)


@pytest.mark.parametrize("table", ["audit", "tenant_samples", "notes"])
def test_a_damaged_database_is_reported_in_a_sentence(desk: Desk, tmp_path: Path, table: str) -> None:
    desk.bench.context.database.close()
    damage(tmp_path / "state" / "bot.db", table)
    bench = again(desk, tmp_path / "state")
    said = json.dumps(bench.answer("doctor", OPERATOR).blocks)
    assert ":x: *Audit log:* the bot's database is damaged (" in said
    verified: Any = bench.answer("audit verify", LEAD)
    assert "The bot's database is damaged" in json.dumps(verified.blocks)
    if table == "audit":
        with pytest.raises(DatabaseDamaged, match="keep a copy of"):
            bench.ask("new client-y")


def test_a_bot_whose_database_file_is_no_database_says_so_and_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bot.db").write_bytes(b"what a restore left here" * 1000)

    def run() -> int:
        Database(tmp_path / "bot.db")
        return 0

    monkeypatch.setattr("bot.program.run", run)
    assert main(["run"]) == 1
    assert "The bot's own database is damaged (file is not a database)" in capsys.readouterr().err
