"""`/mautic rollout`: many upgrades by one approval, ring by ring."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.fleet import releases
from bot.guest import simulated_state as simulated_tenant
from bot.store import batches
from schedules.offers import offers
from tests.mautic_double.build import build
from tests.support.bot import OPERATOR, Bench, make_bench

NEW = "6.0.10+double"
NAMES = [f"client-{letter}" for letter in "abcdef"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("releases") / "6.0.10.zip"
    return path, build(path, "6.0.10")


@pytest.fixture
def bench(tmp_path: Path, archive: tuple[Path, str]) -> Bench:
    """Six tenants of 5.2.12, one of which is a canary, and the release 6.0.10."""
    config = tmp_path / "own.toml"
    config.write_text(
        f'[releases."6.0.10"]\narchive = "{archive[0]}"\nsha256 = "{archive[1]}"\n[rollouts]\nshare = 40\nsoak = 10\n'
    )
    made = make_bench(tmp_path, MAUTIC_OPS_CONFIG=str(config))
    assert releases.keep(made.context.settings) == []
    for name in NAMES:
        assert made.done(f"new {name}").state == "succeeded"
    made.done("tag client-d canary", OPERATOR)
    return made


def rehearsed(bench: Bench, text: str = "rollout 6.0.10 --all") -> None:
    """Ask for a rollout, and have its rehearsals run to their end."""
    assert "Rehearsing" in bench.answer(text, OPERATOR).text
    bench.finish()
    offers(bench.context)


def versions(bench: Bench) -> set[str]:
    """The tenants that have been upgraded."""
    return {one.name for one in bench.context.fleet.tenants() if one.version == NEW}


def test_rings_follow_one_another_with_a_pause_between(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    assert batch.plan["facts"]["Rings"] == "1, then 2, then 3, 10 min apart"
    bench.approve(batch)
    bench.finish()
    assert versions(bench) == {"client-d"}, "the canary alone"
    bench.clock.move(9 * 60)
    bench.finish()
    assert versions(bench) == {"client-d"}
    bench.clock.move(2 * 60)
    bench.finish()
    assert versions(bench) == {"client-d", "client-a", "client-b"}
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) == set(NAMES)
    assert bench.context.operations.get(batch.id).state == "succeeded"


def test_it_pauses_at_the_first_failure_and_goes_on_when_somebody_says_so(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    simulated_tenant.change(bench.lxd, "client-d", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    bench.approve(batch)
    bench.finish()
    bench.clock.move(30 * 60)
    bench.finish()
    assert versions(bench) == set()
    stands = batches.standing(bench.context.operations, batch.id)
    assert stands
    assert (stands.failed, stands.paused_by) == (("client-d",), "system")
    batches.go_on(bench.context.operations, batch, OPERATOR.id)
    for _ in range(3):
        bench.finish()
        bench.clock.move(11 * 60)
    assert versions(bench) == set(NAMES) - {"client-d"}


def test_who_did_not_pass_is_left_out_and_the_card_says_why(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-c", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    assert "client-c" in batch.plan["remarks"]["Left out"]
    assert "client-c" not in batch.arguments["tenant"]


def test_nobody_is_rehearsed_twice_within_a_day(bench: Bench) -> None:
    rehearsed(bench, "rollout 6.0.10 client-a,client-b")
    assert len(bench.context.operations.select("command = 'rollout'")) == 1
    assert len(bench.context.operations.select("command = 'rehearse' AND parent <> 0")) == 2
