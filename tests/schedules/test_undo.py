"""What could not be rolled back while a host was silent is rolled back when the host answers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bot.edge.probe import Probe
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.store import recovery
from bot.store.operation import Operation
from schedules.undo import undo
from tests.support.bot import OPERATOR, Bench, live, make_bench, notes, switch
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def other() -> SimulatedLxd:
    return SimulatedLxd()


@pytest.fixture
def bench(tmp_path: Path, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench with two servers, and a tenant on the first."""
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.1)
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    made = make_bench(tmp_path, others={"solo": other})
    assert made.done("new client-x --host local").state == "succeeded"
    return made


class Killed(BaseException):
    pass


def killed_after_the_switch(bench: Bench, text: str) -> Operation:
    """Return an operation during which the bot dies once its candidate is open, before its page was checked."""

    def kill(_: str) -> None:
        if bench.context.operations.get(operation.id).step("change").finished:
            raise Killed

    operation = bench.approve(bench.ask(text, OPERATOR))
    bench.runner.fault = kill
    with pytest.raises(Killed):
        bench.finish()
    bench.runner.fault = lambda _: None
    return operation


def tick(bench: Bench) -> None:
    undo(bench.context)
    bench.finish()


def test_a_move_is_rolled_back_by_itself_when_its_silent_source_answers(bench: Bench) -> None:
    down = switch(bench.lxd)

    def fail(moment: str) -> None:
        if moment == "before 5":
            down.set()
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    stuck = bench.done("migrate client-x solo", OPERATOR)
    assert stuck.state == "needs_attention"
    assert "The bot rolls back automatically when the host answers" in notes(bench, stuck)[-1]
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "needs_attention"
    down.clear()
    tick(bench)
    ended = bench.context.operations.get(stuck.id)
    assert (ended.state, ended.outcome) == ("failed", "LXD could not.")
    assert live(bench)
    assert bench.lxd.instance("client-x").running


def test_a_host_that_answers_but_starts_nothing_is_reported_once(bench: Bench) -> None:
    def fail(moment: str) -> None:
        if moment == "before 5":
            raise LxdError("LXD could not.")

    def call(method: str, arguments: object) -> None:
        if method == "start":
            raise LxdUnavailable("LXD did not start it in time.")

    bench.runner.fault = fail
    bench.lxd.on_call = call
    stuck = bench.done("migrate client-x solo", OPERATOR)
    told = notes(bench, stuck)
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "needs_attention"
    assert notes(bench, stuck) == told
    bench.lxd.on_call = None
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "failed"


def test_a_candidate_that_clients_may_have_written_to_is_left_to_a_person(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = switch(bench.lxd)

    def probe(_: str) -> Probe:
        down.set()
        return Probe(0, False, error="timed out")

    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", probe)
        stuck = bench.done("migrate client-x solo", OPERATOR)
    down.clear()
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "needs_attention"
    assert other.instance(f"client-x--{stuck.id}").running
    recovery.retry(bench.context.operations, stuck, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(stuck.id).state == "succeeded"


def test_a_rollback_that_failed_for_another_reason_is_left_to_a_person(bench: Bench, other: SimulatedLxd) -> None:
    def fail(moment: str) -> None:
        if moment == "before 5":
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    bench.lxd.fail_next("start", LxdError("LXD could not start it."))
    stuck = bench.done("migrate client-x solo", OPERATOR)
    assert stuck.state == "needs_attention"
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "needs_attention"


def test_what_clients_wrote_while_the_bot_was_down_is_left_to_a_person(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash at the cutover leaves the candidate open: a page that is late after the restart must not delete it."""

    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    restore = killed_after_the_switch(bench, f"restore client-x {snapshot.name}")
    bench.clock.move(3 * 3600)
    recovery.recover(bench.context.operations)
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
        bench.finish()
    halted = bench.context.operations.get(restore.id)
    assert halted.state == "needs_attention"
    assert "Clients have been able to write to the new container since" in halted.outcome
    assert bench.lxd.instance(f"client-x--{restore.id}").running
    tick(bench)
    assert bench.lxd.instance(f"client-x--{restore.id}").running
    recovery.retry(bench.context.operations, halted, OPERATOR.id)
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
        bench.finish()
    assert bench.lxd.instance(f"client-x--{restore.id}").running, "a failed retry does not delete it either"
    recovery.retry(bench.context.operations, bench.context.operations.get(restore.id), OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(restore.id).state == "succeeded"


def test_what_clients_wrote_since_an_opening_dated_in_the_future_is_left_to_a_person(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was ahead at the cutover, and right again when the bot continued hours later."""
    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    bench.clock.set(30 * 86_400)
    restore = killed_after_the_switch(bench, f"restore client-x {snapshot.name}")
    bench.clock.set(-30 * 86_400)
    bench.clock.move(3 * 3600)
    recovery.recover(bench.context.operations)
    monkeypatch.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
    bench.finish()
    halted = bench.context.operations.get(restore.id)
    assert halted.state == "needs_attention"
    assert "for an unknown time, because the clock was ahead" in halted.outcome
    assert bench.lxd.instance(f"client-x--{restore.id}").running


def test_what_clients_may_have_written_on_a_silent_server_is_left_to_a_person(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old container must not serve again beside a candidate that nobody can look at."""

    moved = killed_after_the_switch(bench, "migrate client-x solo")
    bench.clock.move(3 * 3600)
    other.down = True
    recovery.recover(bench.context.operations)
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
        bench.finish()
    halted = bench.context.operations.get(moved.id)
    assert halted.state == "needs_attention"
    assert not bench.lxd.instance("client-x").running
    assert halted.aftermath["safe"] == "", "no button loses nothing"
    assert "may be on solo, which does not answer" in halted.aftermath["data"]
    assert "Undo returns to `client-x` on local and loses" in halted.aftermath["advice"]
    other.down = False
    tick(bench)
    assert other.instance(f"client-x--{moved.id}").running
    recovery.retry(bench.context.operations, bench.context.operations.get(moved.id), OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(moved.id).state == "succeeded"


def test_a_retry_is_rolled_back_although_an_earlier_attempt_opened_its_candidate(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one was rolled back: nobody has written to the candidate of this attempt."""
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
        first = bench.done("migrate client-x solo", OPERATOR)
    assert first.state == "failed"
    bench.clock.move(3600)

    def fail(_: str) -> None:
        running = bench.context.operations.get(first.id)
        if running.state == "running" and running.step("stop").finished:
            other.down = True

    bench.runner.fault = fail
    recovery.retry(bench.context.operations, first, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(first.id).state == "failed"
    assert live(bench)


def test_a_short_outage_of_lxd_during_a_rollback_is_waited_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 60.0)
    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    down = switch(bench.lxd)

    def fail(moment: str) -> None:
        running = bench.context.operations.select("state = 'running' AND command = 'restore'")
        if running and running[0].step("change").finished and not running[0].step("probe").finished:
            bench.runner.fault = lambda _: None
            down.set()
            threading.Timer(1.0, down.clear).start()
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    ended = bench.done(f"restore client-x {snapshot.name}", OPERATOR)
    assert ended.state == "failed"
    assert live(bench)


def test_an_unrelated_silent_server_does_not_delay_the_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.1)
    solo, third = SimulatedLxd(), SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": solo, "third": third})
    assert bench.done("new client-x --host local").state == "succeeded"
    down = switch(bench.lxd)

    def fail(moment: str) -> None:
        if moment == "before 5":
            down.set()
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    stuck = bench.done("migrate client-x solo", OPERATOR)
    third.down = True
    down.clear()
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "failed"
    assert live(bench)
