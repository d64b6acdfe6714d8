"""Ballast: space that the bot occupies, and gives up on a full pool so that snapshots can be removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.fleet import ballast
from bot.lxd.protocol import LxdError, PoolFull
from schedules.ballast import ballast as job
from tests.support.bot import OPERATOR, Bench, make_bench

GIB = 1 << 30


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bot with client-x, on a pool of 100 GiB."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SNAPSHOTS__BALLAST="256MiB")
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="100GiB", subnet="10.70.0.1/24")
    assert bench.done("new client-x", OPERATOR).state == "succeeded"
    return bench


def pieces(bench: Bench) -> int:
    return len(bench.lxd.world.machines["ballast-local"].padding)


def test_ballast_is_created_once_and_is_not_a_tenant(bench: Bench) -> None:
    before, fleet = bench.lxd.pool().used, bench.context.fleet.all("tenant", "archived", "former", "incoming")
    job(bench.context)
    job(bench.context)
    assert pieces(bench) == 16
    assert 256 << 20 <= bench.lxd.pool().used - before < 300 << 20
    assert bench.context.fleet.all("tenant", "archived", "former", "incoming") == fleet


def test_ballast_takes_a_fiftieth_of_a_small_pool_and_does_not_grow_on_a_full_one(bench: Bench) -> None:
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="4GiB", subnet="10.70.0.1/24")
    job(bench.context)
    assert pieces(bench) == 5
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="100GiB", subnet="10.70.0.1/24")
    bench.lxd.fill("client-x", 29 * GIB)
    bench.lxd.world.pool_bytes = 32 * GIB
    job(bench.context)
    assert pieces(bench) == 5


def test_ballast_is_given_up_to_prune_a_full_pool_and_restored_later(bench: Bench) -> None:
    job(bench.context)
    taken = bench.done("snapshot client-x", OPERATOR).steps[0].note.partition(",")[0]
    bench.lxd.rewrite("client-x", 10 * GIB)
    bench.lxd.world.pool_bytes = bench.lxd.pool().used
    with pytest.raises(PoolFull):
        bench.lxd.delete_snapshot("client-x", taken)
    assert bench.done(f"prune client-x {taken}", OPERATOR).state == "succeeded"
    assert pieces(bench) == 15
    bench.lxd.world.pool_bytes = 100 * GIB
    job(bench.context)
    assert pieces(bench) == 16


def test_without_ballast_pruning_a_full_pool_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = bench.done("snapshot client-x", OPERATOR).steps[0].note.partition(",")[0]
    bench.lxd.world.pool_bytes = bench.lxd.pool().used
    done = bench.done(f"prune client-x {taken}", OPERATOR)
    assert (done.state, "full" in done.outcome) == ("failed", True)


def test_ballast_is_removed_when_its_size_is_zero(tmp_path: Path, bench: Bench) -> None:
    job(bench.context)
    (host,) = bench.context.fleet.hosts()
    ballast.keep(host, 0, 10)
    assert pieces(bench) == 0
    assert not ballast.give_up(host)


def test_somebody_elses_container_of_the_same_name_is_left_alone(bench: Bench) -> None:
    bench.lxd.create("ballast-local", "base", config={}, devices={})
    with pytest.raises(LxdError, match="is not the bot's; rename it"):
        job(bench.context)
