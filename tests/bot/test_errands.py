"""What the bot does by itself stands in nobody's way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bot import operations
from bot.errands import AT_ONCE, Errands
from tests.support.bot import OPERATOR, Bench, make_bench, make_desk


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    Errands(made.context).ask("snapshot", made.answer("snapshot client-x"))
    return made


def test_a_person_who_asks_while_an_errand_is_under_way_need_not_ask_again(bench: Bench) -> None:
    desk = make_desk(bench)
    soon = threading.Timer(0.3, bench.finish)
    soon.start()
    desk.command("delete client-x", OPERATOR)
    soon.join()
    assert [one.state for one in bench.context.operations.select("1 = 1")][1:] == ["succeeded", "awaiting_approval"]


def test_who_asks_while_an_errand_hangs_is_told_that_it_is_the_bots(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "ERRAND", 0.1)
    desk = make_desk(bench)
    desk.command("delete client-x", OPERATOR)
    assert "held by operation 2 (snapshot), asked for by the bot itself" in desk.slack.to(OPERATOR.id)[-1]


def test_who_approves_while_an_errand_is_under_way_need_not_press_again(bench: Bench) -> None:
    bench.finish()
    request = bench.ask("stop client-x", OPERATOR)
    Errands(bench.context).ask("snapshot", bench.answer("snapshot client-x"))
    soon = threading.Timer(0.3, bench.finish)
    soon.start()
    assert bench.approve(request).state == "queued"
    soon.join()


def test_who_approves_while_an_errand_hangs_is_told_and_the_request_still_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "ERRAND", 0.1)
    bench.finish()
    request = bench.ask("stop client-x", OPERATOR)
    Errands(bench.context).ask("snapshot", bench.answer("snapshot client-x"))
    with pytest.raises(operations.TenantBusy, match=r"\(snapshot\), asked for by the bot itself"):
        bench.approve(request)
    waiting = bench.context.operations.get(request.id)
    assert (waiting.state, waiting.decisions) == ("awaiting_approval", ())


def test_an_errand_yields_to_who_was_quicker(bench: Bench) -> None:
    errands = Errands(bench.context)
    assert not errands.may("client-x", passes=True)
    errands.ask("snapshot", bench.answer("snapshot client-x"))
    assert errands.room == AT_ONCE - 1
    assert len(bench.context.operations.select("requester = 'system'")) == 1
