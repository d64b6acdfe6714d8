"""`/mautic console`: a delivery runs its command once, and at most two commands run at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.guest.console import ALLOWED, READS
from tests.support.bot import OPERATOR, Desk, make_bench, make_desk, notes, until

SEND = "console client-x mautic:broadcasts:send"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    bench = make_bench(tmp_path)
    for name in ("client-x", "client-y", "client-z"):
        assert bench.done(f"new {name}").state == "succeeded"
    return make_desk(bench)


def test_a_command_that_a_restart_interrupted_is_not_run_again(desk: Desk) -> None:
    made: Counter[str] = Counter()
    desk.bench.lxd.on_call = lambda method, _: made.update([method])
    for _ in range(2):
        desk.command(SEND, OPERATOR, key="one-delivery")
    assert made["execute"] == 1
    assert "it is not repeated automatically" in desk.slack.to(OPERATOR.id)[-1]


def test_a_third_command_at_the_same_time_is_refused(desk: Desk) -> None:
    """Console commands must not keep decisions waiting."""
    end, running = threading.Event(), Counter[str]()

    def on_call(method: str, _: tuple[Any, ...]) -> None:
        if method == "execute":
            running.update([method])
            end.wait(30)

    desk.bench.lxd.on_call = on_call
    with ThreadPoolExecutor(2) as pool:
        for name in ("client-x", "client-y"):
            pool.submit(desk.command, SEND.replace("client-x", name), OPERATOR)
        until(lambda: running["execute"] == 2)
        desk.command(SEND.replace("client-x", "client-z"), OPERATOR)
        end.set()
    assert desk.slack.to(OPERATOR.id)[0].startswith(":warning: Two console commands are already running")
    desk.command(SEND, OPERATOR)
    assert "already" not in desk.slack.to(OPERATOR.id)[-1]


@contextmanager
def running(desk: Desk, text: str) -> Iterator[None]:
    """Keep one of Mautic's commands running inside the `with` block."""
    end, begun = threading.Event(), threading.Event()

    def on_call(method: str, _: tuple[Any, ...]) -> None:
        if method == "execute" and not begun.is_set():
            begun.set()
            end.wait(30)

    desk.bench.lxd.on_call = on_call
    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(desk.command, text, OPERATOR)
        try:
            assert begun.wait(30)
            yield
        finally:
            end.set()
        ran.result(30)
    desk.bench.lxd.on_call = None


def test_a_command_that_changes_something_locks_the_tenant(desk: Desk) -> None:
    with running(desk, SEND):
        desk.command("console client-x cache:clear", OPERATOR)
        assert "`mautic:broadcasts:send` is running in `client-x`. Try again" in desk.slack.to(OPERATOR.id)[-1]
        desk.command("restart client-x", OPERATOR)
        restart = desk.last()
        desk.bench.finish()
        waits = desk.bench.context.operations.get(restart.id)
        assert (waits.state, waits.held_by) == ("queued", "busy")
        assert "`mautic:broadcasts:send` is running in `client-x`" in notes(desk.bench, restart)[-1]
    desk.bench.finish()
    assert desk.bench.context.operations.get(restart.id).state == "succeeded"


def test_a_command_is_refused_beside_an_approved_operation_but_not_beside_a_request(desk: Desk) -> None:
    asked = desk.bench.ask("stop client-x", OPERATOR)
    desk.command(SEND, OPERATOR)
    assert "finished (exit code 0)" in desk.slack.to(OPERATOR.id)[-1]
    desk.bench.approve(asked)
    desk.command(SEND, OPERATOR)
    assert "`client-x` is locked by request" in desk.slack.to(OPERATOR.id)[-1]
    desk.command("console client-x messenger:failed:show", OPERATOR)
    assert "`client-x` is locked by request" not in desk.slack.to(OPERATOR.id)[-1], "it only reads"


def test_a_command_that_fails_unlocks_the_tenant(desk: Desk) -> None:
    desk.bench.lxd.fail_next("execute", OSError("gone"))
    desk.command(SEND, OPERATOR)
    assert desk.bench.context.operations.at_work.on("client-x") == ""
    desk.command(SEND, OPERATOR)
    assert "finished (exit code 0)" in desk.slack.to(OPERATOR.id)[-1]


def test_only_commands_that_show_a_state_count_as_reading() -> None:
    assert set(ALLOWED) > READS
    assert {name for name in ALLOWED if name.endswith((":status", ":up-to-date", ":show"))} == READS
