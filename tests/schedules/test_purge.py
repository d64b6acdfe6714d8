"""What is kept of tenants goes for good when the policy's days are over, and no day sooner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from bot.lxd import LxdError, LxdUnavailable
from bot.simulated_lxd import SimulatedLxd
from schedules.purge import purge
from tests.support.bot import OPERATOR, Bench, containers, live, make_bench

DAY = 86_400


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def tick(bench: Bench) -> None:
    purge(bench.context)
    bench.finish()


def test_an_archive_goes_when_its_days_are_over(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(30 * DAY - 1)
    tick(bench)
    assert containers(bench) == {"client-x--archived"}
    bench.clock.move(1)
    tick(bench)
    assert containers(bench) == set()
    (done,) = bench.context.operations.select("command = 'purge'")
    assert (done.requester, done.state, done.channel) == ("system", "succeeded", "")
    rows = bench.context.database.read("SELECT detail FROM audit WHERE event = 'operation.requested' AND operation = 3")
    assert '"container": "client-x--archived"' in rows[0]["detail"]
    tick(bench)
    assert len(bench.context.operations.select("command = 'purge'")) == 1


def test_what_a_restore_replaced_goes_and_the_tenant_stays(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    assert bench.done(f"restore client-x {snapshot.name}", OPERATOR).state == "succeeded"
    heir = "client-x--3"
    bench.clock.move(7 * DAY - 60)
    tick(bench)
    assert containers(bench) == {"client-x", heir}
    bench.clock.move(120)
    tick(bench)
    assert containers(bench) == {heir}
    assert live(bench)


def test_a_tenant_that_is_busy_or_comes_back_loses_nothing(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(31 * DAY)
    operation = bench.ask("unarchive client-x", OPERATOR)
    tick(bench)
    assert containers(bench) == {"client-x--archived"}
    bench.approve(operation)
    bench.finish()
    tick(bench)
    assert containers(bench) == {"client-x"}
    assert live(bench)


def test_what_cannot_be_removed_now_is_tried_again_later(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(31 * DAY)
    bench.lxd.fail_next("delete", LxdError("LXD could not delete it: busy."))
    tick(bench)
    tick(bench)
    assert [one.state for one in bench.context.operations.select("command = 'purge'")] == ["failed"]
    assert bench.lxd.instance("client-x--archived").config["security.protection.delete"] == "true"
    bench.clock.move(1000)
    tick(bench)
    assert containers(bench) == set()


def test_a_server_that_is_silent_keeps_nothing_on_the_others(tmp_path: Path) -> None:
    silent = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": silent})
    bench.done("new client-x --host local")
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(31 * DAY)

    def answer(*_: Any) -> None:
        raise LxdUnavailable("LXD on solo does not answer.")

    silent.on_call = answer
    with pytest.raises(LxdUnavailable, match="LXD on solo does not answer"):
        purge(bench.context)
    bench.finish()
    assert containers(bench) == set()


def test_what_was_not_found_may_be_where_nobody_answers(tmp_path: Path) -> None:
    silent = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": silent})
    silent.fail_next("instances", LxdUnavailable("LXD on solo does not answer."))
    with pytest.raises(LxdUnavailable, match="`solo` does not answer, so it may be there"):
        bench.answer("purge client-x", OPERATOR)


def test_one_that_cannot_be_asked_for_does_not_keep_the_others_waiting(bench: Bench) -> None:
    bench.done("new client-y")
    for tenant in ("client-x", "client-y"):
        bench.done(f"delete {tenant}", OPERATOR)
    bench.clock.move(31 * DAY)
    looks = itertools.count()

    def fail_for_the_first(method: str, _: tuple[Any, ...]) -> None:
        if method == "instances" and next(looks) == 1:
            raise LxdUnavailable("LXD does not answer.")

    bench.lxd.on_call = fail_for_the_first
    with pytest.raises(LxdUnavailable, match="LXD does not answer"):
        purge(bench.context)
    bench.lxd.on_call = None
    bench.finish()
    assert containers(bench) == {"client-x--archived"}
