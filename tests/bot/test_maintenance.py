"""Maintenance does not get in the way of people."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bot.engine.maintenance import AT_ONCE, Maintenance
from bot.store import claims, operations, recovery
from tests.support.bot import OPERATOR, Bench, events, make_bench, make_desk


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A tenant of which the bot is taking a snapshot."""
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    begin(made)
    return made


def begin(bench: Bench) -> None:
    Maintenance(bench.context).ask("snapshot", bench.answer("snapshot client-x"))
    assert claims.claim(bench.context.operations)


def end(bench: Bench) -> None:
    """Let the maintenance that is under way finish."""
    recovery.recover(bench.context.operations)
    bench.finish()


def test_a_request_during_maintenance_waits_for_its_end(bench: Bench) -> None:
    desk = make_desk(bench)
    soon = threading.Timer(0.3, end, [bench])
    soon.start()
    desk.command("delete client-x", OPERATOR)
    soon.join()
    states = {one.command: one.state for one in bench.context.operations.select("1 = 1")}
    assert states == {"new": "succeeded", "snapshot": "succeeded", "delete": "awaiting_approval"}


def test_a_request_is_refused_while_maintenance_hangs_and_the_refusal_names_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MAINTENANCE_ENDS", 0.1)
    desk = make_desk(bench)
    desk.command("delete client-x", OPERATOR)
    assert "locked by the bot's own snapshot of `client-x`" in desk.slack.to(OPERATOR.id)[-1]


def test_an_approval_during_maintenance_waits_for_its_end(bench: Bench) -> None:
    end(bench)
    request = bench.ask("stop client-x", OPERATOR)
    begin(bench)
    soon = threading.Timer(0.3, end, [bench])
    soon.start()
    assert bench.approve(request).state == "queued"
    soon.join()


def test_an_approval_is_refused_while_maintenance_hangs_and_the_request_stays_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MAINTENANCE_ENDS", 0.1)
    end(bench)
    request = bench.ask("stop client-x", OPERATOR)
    begin(bench)
    with pytest.raises(operations.TenantBusy, match="locked by the bot's own snapshot of `client-x`"):
        bench.approve(request)
    waiting = bench.context.operations.get(request.id)
    assert (waiting.state, waiting.decisions) == ("awaiting_approval", ())


def test_no_maintenance_is_requested_for_a_busy_tenant(bench: Bench) -> None:
    maintenance = Maintenance(bench.context)
    assert not maintenance.may("client-x", passes=True)
    maintenance.ask("snapshot", bench.answer("snapshot client-x"))
    assert maintenance.slots == AT_ONCE - 1
    assert len(bench.context.operations.select("requester = 'system'")) == 1


def test_an_approved_request_overtakes_maintenance_that_has_not_begun(bench: Bench) -> None:
    end(bench)
    request = bench.ask("stop client-x", OPERATOR)
    Maintenance(bench.context).ask("snapshot", bench.answer("snapshot client-x"))
    upkeep = bench.context.operations.select("requester = 'system'", order="id DESC")[0]
    assert bench.approve(request).state == "queued"
    overtaken = bench.context.operations.get(upkeep.id)
    assert (overtaken.state, overtaken.outcome) == ("cancelled", "A person's request came first")
    assert events(bench, overtaken)[-1] == "operation.overtaken"
    bench.finish()
    assert bench.context.operations.get(request.id).state == "succeeded"
    assert Maintenance(bench.context).may("client-x"), "the next run may request it again"
