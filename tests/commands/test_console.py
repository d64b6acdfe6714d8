"""`/mautic console`: each delivery runs once, and not many at a time."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.bot import OPERATOR, Desk, make_bench, make_desk, until

SEND = "console client-x mautic:broadcasts:send"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    bench = make_bench(tmp_path)
    assert bench.done("new client-x").state == "succeeded"
    return make_desk(bench)


def test_one_that_a_restart_cut_is_not_run_a_second_time(desk: Desk) -> None:
    made: Counter[str] = Counter()
    desk.bench.lxd.on_call = lambda method, _: made.update([method])
    for _ in range(2):
        desk.command(SEND, OPERATOR, key="one-delivery")
    assert made["execute"] == 1
    assert "it is not run again by itself" in desk.slack.to(OPERATOR.id)[-1]


def test_a_third_at_once_is_refused_so_that_decisions_are_not_kept_waiting(desk: Desk) -> None:
    end, running = threading.Event(), Counter[str]()

    def on_call(method: str, _: tuple[Any, ...]) -> None:
        if method == "execute":
            running.update([method])
            end.wait(30)

    desk.bench.lxd.on_call = on_call
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(desk.command, SEND, OPERATOR)
        until(lambda: running["execute"] == 2)
        desk.command(SEND, OPERATOR)
        end.set()
    assert desk.slack.to(OPERATOR.id)[0].startswith(":warning: Two of Mautic's commands are running already")
    desk.command(SEND, OPERATOR)
    assert "already" not in desk.slack.to(OPERATOR.id)[-1]
