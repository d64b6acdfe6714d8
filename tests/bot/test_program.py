"""The bot's process: one per state folder, and how it starts and stops."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot import local_stack
from bot.engine.runner import Runner
from bot.engine.scheduler import Scheduler
from bot.program import Bot, main, take
from bot.store.inbox import Inbox
from bot.workspace.people import TEAM
from tests.support.bot import make_bench, make_desk
from tests.support.workspace import APP_TOKEN, BOT_TOKEN, WorkspaceServer, eventually
from tests.support.world import CHANNEL, BotProcess

HOLDS = """
import subprocess, sys, time
from pathlib import Path
from bot.program import take
take(Path(sys.argv[1]))
print(subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(60)
"""

HANGS = """
import sys, time
from bot import program
from bot.intake.invocations import Invocations
Invocations.handle = lambda *_: time.sleep(600)
program.DRAIN = 1.0
sys.exit(program.main(["run"]))
"""


FULL = """
import resource, sys
from bot import program
from bot.intake.invocations import Invocations
handle = Invocations.handle
def with_a_full_disk(*delivery):
    # No file grows any more, as the delivery is written down and not yet worked on.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    handle(*delivery)
Invocations.handle = with_a_full_disk
sys.exit(program.main(["run"]))
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a bot that has all it needs; the umask, which `run` changes, is restored after the test."""
    monkeypatch.setenv("MAUTIC_OPS_BOT__STATE", str(tmp_path))
    monkeypatch.setenv("MAUTIC_OPS_LXD__ENDPOINT", "simulated")
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-1")
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-1")
    before = os.umask(0o022)
    yield monkeypatch
    os.umask(before)


def test_an_interrupt_shows_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def up() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_stack, "up", up)
    assert main(["up"]) == 130
    assert capsys.readouterr().err == "\nmautic-ops: interrupted.\n"


def test_a_second_bot_on_the_same_state_ends_with_an_explanation(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take(tmp_path)
    assert main(["run"]) == 1
    assert capsys.readouterr().err == (
        f"mautic-ops: Another bot has this state (pid {os.getpid()}); two would run operations twice.\n"
    )
    assert not (tmp_path / "bot.db").exists()


@pytest.mark.parametrize("verb", ["run", "up"])
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"SLACK_APP_TOKEN": ""}, "SLACK_APP_TOKEN is not set"),
        ({"SLACK_BOT_TOKEN": ""}, "SLACK_BOT_TOKEN is not set"),
        ({"MAUTIC_OPS_SLACK__HTTP_PORT": "3000"}, "SLACK_SIGNING_SECRET is not set"),
        ({"SLACK_BOT_TOKEN": "xapp-1"}, "SLACK_BOT_TOKEN does not begin with `xoxb-`; it is another token"),
        ({"SLACK_APP_TOKEN": "xoxb-1"}, "SLACK_APP_TOKEN does not begin with `xapp-`; it is another token"),
    ],
)
def test_a_missing_or_wrong_token_is_reported_before_anything_starts(
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    changed: dict[str, str],
    why: str,
) -> None:
    for name, value in changed.items():
        environment.setenv(name, value)
    assert main([verb]) == 1
    assert capsys.readouterr().err.startswith(f"mautic-ops: {why}")
    assert not (tmp_path / "bot.db").exists()


@pytest.mark.parametrize("token", ["SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"])
def test_a_token_that_slack_rejects_is_named_before_anything_starts(
    workspace: WorkspaceServer, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str
) -> None:
    for name, value in {"SLACK_BOT_TOKEN": BOT_TOKEN, "SLACK_APP_TOKEN": APP_TOKEN}.items():
        environment.setenv(name, f"{value}-wrong" if name == token else value)
    environment.setenv("MAUTIC_OPS_SLACK__API", workspace.api_url)
    environment.setattr(Runner, "start", lambda _: pytest.fail("it began"))
    assert main(["run"]) == 1
    assert capsys.readouterr().err == f"mautic-ops: Slack rejected {token}: invalid_auth.\n"


def test_an_unreachable_slack_is_reported_before_anything_starts(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("MAUTIC_OPS_SLACK__API", "http://127.0.0.1:1/api/")
    environment.setattr(Runner, "start", lambda _: pytest.fail("it began"))
    assert main(["run"]) == 1
    assert capsys.readouterr().err == "mautic-ops: Slack cannot be reached: [Errno 111] Connection refused.\n"


def test_the_state_of_a_killed_bot_is_free_although_its_children_still_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bot:
        assert bot.stdout
        child = int(bot.stdout.readline())
        bot.kill()
        bot.wait()
        take(tmp_path)
        os.kill(child, signal.SIGKILL)
    assert (tmp_path / "bot.lock").read_text() == str(os.getpid())


@pytest.fixture
def bot(tmp_path: Path, workspace: WorkspaceServer) -> Iterator[BotProcess]:
    """A bot with a simulated LXD, which the test starts; it is killed after the test."""
    environment = {
        "MAUTIC_OPS_BOT__STATE": str(tmp_path),
        "MAUTIC_OPS_LXD__ENDPOINT": "simulated",
        "SLACK_BOT_TOKEN": BOT_TOKEN,
        "SLACK_APP_TOKEN": APP_TOKEN,
    }
    process = BotProcess(environment, tmp_path, workspace)
    yield process
    process.kill()


def test_a_bot_notes_whose_state_it_is_and_leaves_in_peace(tmp_path: Path, bot: BotProcess) -> None:
    bot.start()
    assert (tmp_path / "team").read_text() == TEAM
    assert bot.stop() == 0
    assert not (tmp_path / "ready").exists()


def test_a_bot_that_was_frozen_when_it_was_signalled_to_stop_still_stops(bot: BotProcess) -> None:
    bot.start()
    assert bot.process
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        bot.process.send_signal(number)
    assert bot.process.wait(30) == 0


def test_the_bots_files_are_accessible_to_its_own_user_only(tmp_path: Path, bot: BotProcess) -> None:
    bot.start()
    kept = [*tmp_path.glob("bot.db*"), tmp_path / "vault.key", tmp_path / "team"]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in kept} == {path.name: "0o600" for path in kept}


def test_a_slow_delivery_does_not_delay_the_stop(bot: BotProcess, workspace: WorkspaceServer) -> None:
    bot.command = (sys.executable, "-c", HANGS)
    bot.start()
    workspace.command("operator", CHANNEL, "/mautic list")
    assert bot.stop() == 0
    assert [row["done"] for row in bot.rows("SELECT done FROM inbox")] == [None]


def test_all_work_in_hand_shares_one_deadline_and_no_more_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.program.DRAIN", 1.0)
    go_on, begun = threading.Event(), threading.Barrier(5)

    def stuck(moment: str) -> None:
        if moment == "started 0":
            begun.wait(30)
            go_on.wait(60)

    desk = make_desk(make_bench(tmp_path))
    bench = desk.bench
    for number in range(5):
        bench.approve(bench.ask(f"new client-{number}"))
    runner = Runner(bench.context, 4, stuck)
    inbox = Inbox(bench.context.database, lambda *_: go_on.wait(60) and None)
    inbox.put("command", "1", {})
    scheduler = Scheduler(bench.context)
    scheduler.start()
    desk.announcer.start()
    runner.start()
    begun.wait(30)
    since = time.monotonic()
    Bot(bench.context, desk.announcer, runner, inbox, scheduler).stop()
    took = time.monotonic() - since
    go_on.set()
    inbox.stop()
    runner.stop()
    assert took < 10
    again = make_bench(tmp_path, lxd=bench.lxd)
    assert sorted(one.state for one in again.context.operations.select("1")) == ["queued", *["running"] * 4]


def test_a_bot_whose_database_was_deleted_reports_the_audit_entry_that_slack_has_seen(
    tmp_path: Path, bot: BotProcess, workspace: WorkspaceServer
) -> None:
    bot.start()
    workspace.command("operator", CHANNEL, "/mautic schedule pause purge")
    eventually(lambda: bot.rows("SELECT 1 FROM audit"))
    assert bot.stop() == 0
    # The digest is a message that the bot posts by itself.
    bot.environment |= {"MAUTIC_OPS_SLACK__CHANNEL": "C0OPS", "MAUTIC_OPS_DIGEST__HOUR": "0"}
    bot.start()
    workspace.command("operator", CHANNEL, "/mautic schedule run digest")
    posted = eventually(lambda: [one["metadata"] for one in workspace.messages(CHANNEL) if one.get("metadata")], 60)
    seq, _, begin = posted[-1]["event_payload"]["audit"].partition(":")
    assert bot.rows("SELECT 1 FROM audit WHERE seq = ? AND hash LIKE ?", int(seq), f"{begin}%")
    bot.kill()
    for file in tmp_path.glob("bot.db*"):
        file.unlink()
    bot.start()

    def told() -> list[str]:
        return [one["text"] for one in workspace.messages(CHANNEL) if f"entry {seq} (`{begin}`)" in one["text"]]

    (said,) = eventually(told, 60)
    assert "The audit log does not match what the bot posted to Slack" in said


def test_a_command_delayed_by_a_full_disk_is_reported_and_not_done_hours_later(
    bot: BotProcess, workspace: WorkspaceServer
) -> None:
    def told(word: str) -> str:
        mine = [one["text"] for one in workspace.messages(CHANNEL, "operator") if one.get("is_ephemeral")]
        return next((text for text in mine if word in text), "")

    bot.command = (sys.executable, "-c", FULL)
    bot.start()
    assert workspace.command("operator", CHANNEL, "/mautic schedule pause purge")["ok"]
    assert "can't be written right now" in eventually(lambda: told("database"), 30)
    assert not told("Nothing was changed")
    bot.kill()
    with sqlite3.connect(bot.state / "bot.db") as database:
        (waits,) = database.execute("SELECT count(*) FROM inbox WHERE done IS NULL").fetchone()
        database.execute("UPDATE inbox SET received = received - 7200")
    database.close()
    assert waits == 1
    bot.command = BotProcess.command
    bot.start()
    assert "You typed `/mautic schedule …` 2 h ago" in eventually(lambda: told("Nothing was changed"), 30)
    assert bot.rows("SELECT 1 FROM jobs WHERE paused IS NOT NULL") == []
    assert bot.rows("SELECT 1 FROM inbox WHERE done IS NULL") == []
