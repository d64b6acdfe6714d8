"""What could not be taken back while a host was silent is taken back when it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.edge.probe import Probe
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.store import recovery
from schedules.undo import undo
from tests.support.bot import OPERATOR, Bench, live, make_bench, notes, switch
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def other() -> SimulatedLxd:
    return SimulatedLxd()


@pytest.fixture
def bench(tmp_path: Path, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Two servers, with a tenant on the first."""
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.1)
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    made = make_bench(tmp_path, others={"solo": other})
    assert made.done("new client-x --host local").state == "succeeded"
    return made


def tick(bench: Bench) -> None:
    undo(bench.context)
    bench.finish()


def test_a_source_that_was_silent_goes_on_by_itself(bench: Bench) -> None:
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


def test_a_host_that_answers_and_does_nothing_is_told_of_once(bench: Bench) -> None:
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


def test_what_failed_for_another_reason_is_left_to_a_person(bench: Bench, other: SimulatedLxd) -> None:
    def fail(moment: str) -> None:
        if moment == "before 5":
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    bench.lxd.fail_next("start", LxdError("LXD could not start it."))
    stuck = bench.done("migrate client-x solo", OPERATOR)
    assert stuck.state == "needs_attention"
    tick(bench)
    assert bench.context.operations.get(stuck.id).state == "needs_attention"


def test_what_clients_wrote_for_hours_while_the_bot_was_away_is_a_persons_decision(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at the switch leaves the candidate open; one late page must not delete it then."""

    class Killed(BaseException):
        pass

    def kill(moment: str) -> None:
        running = bench.context.operations.select("state = 'running' AND command = 'restore'")
        if running and running[0].step("change").finished:
            raise Killed

    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    restore = bench.approve(bench.ask(f"restore client-x {snapshot.name}", OPERATOR))
    bench.runner.fault = kill
    with pytest.raises(Killed):
        bench.finish()
    bench.runner.fault = lambda moment: None
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
    assert bench.lxd.instance(f"client-x--{restore.id}").running, "a retry that fails deletes it no more"
    recovery.retry(bench.context.operations, bench.context.operations.get(restore.id), OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(restore.id).state == "succeeded"


def test_a_silent_server_may_hold_what_clients_wrote_for_hours(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old container must not serve again beside a candidate that nobody can look at."""

    class Killed(BaseException):
        pass

    def kill(moment: str) -> None:
        running = bench.context.operations.select("state = 'running' AND command = 'migrate'")
        if running and running[0].step("change").finished:
            raise Killed

    bench.runner.fault = kill
    moved = bench.approve(bench.ask("migrate client-x solo", OPERATOR))
    with pytest.raises(Killed):
        bench.finish()
    bench.runner.fault = lambda moment: None
    bench.clock.move(3 * 3600)
    other.down = True
    recovery.recover(bench.context.operations)
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
        bench.finish()
    halted = bench.context.operations.get(moved.id)
    assert halted.state == "needs_attention"
    assert not bench.lxd.instance("client-x").running
    other.down = False
    tick(bench)
    assert other.instance(f"client-x--{moved.id}").running
    recovery.retry(bench.context.operations, bench.context.operations.get(moved.id), OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(moved.id).state == "succeeded"


def test_a_server_that_has_nothing_to_do_with_it_holds_nothing_up(
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
