"""People's requests come before batches, batches before maintenance, and one worker is always left for people."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.engine.maintenance import Maintenance
from bot.engine.runner import Runner
from bot.model.lanes import SYSTEM, Candidate, Lane, Limits, fits, in_line
from bot.store import recovery
from tests.support.bot import OPERATOR, Bench, make_bench, switch, until
from tests.support.simulated_lxd import SimulatedLxd

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.integers(1, 10_000),
        requester=st.sampled_from(["U0A", "U0B", SYSTEM]),
        parent=st.sampled_from([0, 0, 7, 8]),
        host=st.sampled_from(["one", "two"]),
        begun=st.sampled_from([False, False, False, True]),
    ),
    max_size=30,
    unique_by=lambda one: one.id,
)


def test_people_overtake_batches_and_batches_overtake_maintenance() -> None:
    upkeep, child, person = Candidate(1, SYSTEM), Candidate(2, "U0A", parent=9), Candidate(3, "U0A")
    assert in_line([upkeep, child, person], []) == [person, child, upkeep]
    half_way = Candidate(4, SYSTEM, begun=True)
    assert in_line([upkeep, child, person, half_way], [])[0] == half_way


def test_a_person_with_a_running_batch_waits_no_longer_because_of_it() -> None:
    running = [Candidate(number, "U0A", parent=9) for number in range(1, 4)]
    first, second = Candidate(5, "U0A"), Candidate(6, "U0B")
    assert in_line([first, second], running) == [first, second]


def test_children_of_two_batches_take_turns() -> None:
    of_nine = [Candidate(number, "U0A", parent=9) for number in (1, 2, 3)]
    of_eight = [Candidate(number, "U0A", parent=8) for number in (4, 5)]
    assert [one.id for one in in_line([*of_nine, *of_eight], [])] == [1, 4, 2, 5, 3]


@given(CANDIDATES, CANDIDATES, st.integers(1, 6))
def test_no_operation_is_overtaken_by_one_of_a_later_lane(
    waiting: list[Candidate], running: list[Candidate], shared: int
) -> None:
    line = in_line(waiting, running, shared)
    new = [one.lane for one in line if not one.begun]
    assert new == sorted(new)
    assert {one for one in waiting if one.begun or one.lane == Lane.PERSON} <= {*line} <= {*waiting}
    if sum(one.lane != Lane.PERSON for one in running) >= shared:
        assert {*new} <= {Lane.PERSON}
    else:
        assert {*line} == {*waiting}


def test_the_children_of_a_batch_are_limited_in_total_and_per_host() -> None:
    child = Candidate(1, "U0A", parent=9, host="one")
    there, elsewhere = (Candidate(2, "U0A", parent=9, host=name) for name in ("one", "two"))
    anothers = Candidate(4, "U0A", parent=8, host="one")
    assert fits(child, [anothers] * 5, Limits(2, 1))
    assert not fits(child, [there], Limits(2, 1))
    assert fits(child, [elsewhere], Limits(2, 1))
    assert not fits(child, [elsewhere, elsewhere], Limits(2, 1))


def test_a_request_does_not_wait_behind_slow_maintenance(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    for number in range(4):
        assert bench.done(f"new client-{number}").state == "succeeded"
    maintenance = Maintenance(bench.context)
    for number in range(3):
        maintenance.ask("snapshot", bench.answer(f"snapshot client-{number}"))
    free = threading.Event()
    bench.lxd.on_call = lambda method, _: free.wait(60) and None if method == "snapshot" else None
    runner = Runner(bench.context, workers=2)
    bench.context.operations.changed = runner.wake
    runner.start()
    until(lambda: bool(bench.context.operations.select("requester = 'system' AND begun")))
    request = bench.ask("restart client-3", OPERATOR)
    until(lambda: bench.context.operations.get(request.id).state == "succeeded")
    assert len(bench.context.operations.select("requester = 'system' AND state = 'queued'")) == 2
    free.set()
    until(lambda: not bench.context.operations.select("state IN ('queued', 'running')"))
    runner.stop()


@pytest.fixture
def half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, SimulatedLxd]:
    """A bot that was killed during a restart of client-x, which is on another server than client-y."""

    def die(moment: str) -> None:
        if moment == "started 0":
            raise KeyboardInterrupt

    solo = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": solo})
    assert bench.done("new client-x --host solo").state == "succeeded"
    assert bench.done("new client-y --host local").state == "succeeded"
    bench.runner.fault = die
    with pytest.raises(KeyboardInterrupt):
        bench.done("restart client-x", OPERATOR)
    bench.runner.fault = lambda moment: None
    recovery.recover(bench.context.operations)
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 60.0)
    return bench, solo


def test_an_operation_that_waits_for_its_host_occupies_no_worker(half_way: tuple[Bench, SimulatedLxd]) -> None:
    bench, solo = half_way
    down = switch(solo)
    down.set()
    assert bench.runner.run_one()
    (waiting,) = bench.context.operations.select("begun AND state = 'queued'")
    assert (waiting.tenant, waiting.attempts) == ("client-x", 1), "waiting for the host counts as no further attempt"
    assert not bench.runner.run_one(), "it is not retried yet"
    other = bench.ask("snapshot client-y", OPERATOR)
    # The host of client-y answers all the time, but to find the host of a tenant all servers have to answer.
    down.clear()
    assert bench.runner.run_one()
    assert bench.context.operations.get(other.id).state == "succeeded"
    again = Runner(bench.context, 1)
    again.later = 0.0
    assert again.run_one()
    assert bench.context.operations.get(waiting.id).state == "succeeded"


def test_an_operation_that_waits_too_long_for_its_host_needs_attention(
    half_way: tuple[Bench, SimulatedLxd], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, solo = half_way
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.2)
    switch(solo).set()
    bench.runner.later = 0.01
    until(lambda: not bench.runner.run_one() and not bench.context.operations.select("state = 'queued'"))
    (stuck,) = bench.context.operations.select("begun")
    assert stuck.state == "needs_attention"
