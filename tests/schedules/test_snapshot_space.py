"""The space that snapshots use is measured and limited, so that no tenant's snapshots fill a pool for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.engine.snapshots import ours
from bot.lxd.protocol import PoolFull
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.settings import InvalidSettings, load
from bot.store import metrics
from schedules.health import health
from schedules.snapshots import snapshots
from tests.support.bot import OPERATOR, Bench, make_bench

HOUR = 3600
GIB = 1 << 30


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """client-x and client-y, whose plan has 30 GiB of disk, on a pool of 100 GiB."""
    bench = make_bench(tmp_path, MAUTIC_OPS_HEALTH__POOL="85")
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="100GiB", subnet="10.70.0.1/24")
    for name in ("client-x", "client-y"):
        assert bench.done(f"new {name}", OPERATOR).state == "succeeded"
    return bench


def hour(bench: Bench) -> None:
    """Let an hour pass, then run the schedule three times."""
    bench.clock.move(HOUR)
    for _ in range(3):
        snapshots(bench.context)
        bench.finish()


def names(bench: Bench, tenant: str) -> list[str]:
    return [one.name for one in bench.lxd.snapshots(tenant)]


def incidents(bench: Bench) -> dict[tuple[str, str], str]:
    bench.clock.move(60)
    health(bench.context)
    return {(one.subject, one.kind): one.text for one in bench.context.incidents.open()}


def test_a_tenant_that_rewrites_its_disk_again_and_again_fills_no_pool_and_harms_no_other(bench: Bench) -> None:
    """Six rounds of it once filled a pool of 12 GiB."""
    for _ in range(24):
        hour(bench)
        bench.lxd.rewrite("client-x", 8 * GIB)
    space = bench.lxd.pool()
    assert space.total - space.used > 10 * GIB
    assert len(names(bench, "client-y")) >= 20
    assert names(bench, "client-x"), "the newest stays"
    assert bench.done("stop client-y", OPERATOR).state == "succeeded"


def test_a_warning_comes_before_the_oldest_snapshot_is_deleted(bench: Bench) -> None:
    hour(bench)
    bench.lxd.rewrite("client-x", 14 * GIB)
    hour(bench)
    bench.lxd.rewrite("client-x", 13 * GIB)
    hour(bench)
    first = names(bench, "client-x")[0]
    text = incidents(bench)["client-x", "snapshots"]
    assert text.startswith("Snapshots use 27")
    assert "Above that the oldest are deleted. `/mautic snapshots client-x` lists the snapshots, then " in text
    assert f"`/mautic prune client-x {first}` deletes the oldest." in text
    bench.lxd.rewrite("client-x", 5 * GIB)
    hour(bench)
    hour(bench)
    assert first not in names(bench, "client-x")
    assert ("client-x", "snapshots") not in incidents(bench)
    (prune,) = bench.context.operations.select("command = 'prune' AND tenant = 'client-x'", limit=1)
    assert "plan allows" in prune.plan["remarks"]["Why"]


def test_small_snapshots_are_not_deleted_in_place_of_a_large_one(bench: Bench) -> None:
    hour(bench)
    hour(bench)
    hour(bench)
    bench.lxd.rewrite("client-x", 33 * GIB)
    before = names(bench, "client-x")
    for _ in range(3):
        hour(bench)
    left = names(bench, "client-x")
    assert before[2] not in left
    assert set(before[:2]) < set(left)


def test_below_the_reserve_of_the_pool_no_snapshot_is_taken_and_the_oldest_are_deleted(bench: Bench) -> None:
    for _ in range(4):
        hour(bench)
    bench.done("snapshot client-x --keep", OPERATOR)
    (kept,) = {one.name for one in ours(bench.lxd.snapshots("client-x")) if one.keep}
    count = len(names(bench, "client-y"))
    bench.lxd.rewrite("client-x", 20 * GIB)
    bench.lxd.fill("client-y", 29 * GIB)
    bench.lxd.world.pool_bytes = 53 * GIB
    newest = [name for name in names(bench, "client-x") if name != kept][-1]
    bench.clock.move(HOUR)
    last = max(one.id for one in bench.context.operations.select("1 = 1"))
    for _ in range(8):
        snapshots(bench.context)
        bench.finish()
    assert {one.command for one in bench.context.operations.select("id > ?", last)} == {"prune"}
    assert sorted(names(bench, "client-x")) == sorted([newest, kept]), "the newest and the protected one stay"
    assert len(names(bench, "client-y")) < count
    text = incidents(bench)["local", "pool"]
    assert "No snapshot is taken on this host, and the oldest are deleted, until 10% is free." in text
    with pytest.raises(
        Refused, match=r"less than the reserve of 10%. Delete a snapshot with `/mautic prune client-x <snapshot>`"
    ):
        bench.answer("snapshot client-x", OPERATOR)


def test_a_tenant_whose_snapshots_share_their_data_is_found_by_what_it_writes(bench: Bench) -> None:
    """Data that two snapshots share counts for neither.

    So a tenant that rewrites everything every second hour seems to use nothing.
    """
    bench.lxd.fill("client-x", 25 * GIB)
    for _ in range(6):
        hour(bench)
        bench.lxd.rewrite("client-y", 100 << 20)
        hour(bench)
        bench.lxd.rewrite("client-x", 20 * GIB, shared=True)
        if bench.lxd.pool().total - bench.lxd.pool().used < 30 * GIB:
            break
    bench.lxd.world.pool_bytes = bench.lxd.pool().used + GIB
    others, before = names(bench, "client-y"), len(names(bench, "client-x"))
    snapshots(bench.context)
    asked = bench.context.operations.select("state = 'queued' AND command = 'prune'", order="id")
    assert asked[0].tenant == "client-x"
    bench.finish()
    assert len(names(bench, "client-x")) < before
    assert len(names(bench, "client-y")) >= len(others) - 1


def test_a_person_is_told_why_no_more_snapshots_are_taken(bench: Bench) -> None:
    hour(bench)
    bench.lxd.rewrite("client-x", 31 * GIB)
    metrics.note_snapshots(bench.context.database, "client-x", bench.clock.at, [31 * GIB])
    with pytest.raises(Refused, match=r"hold 31.* GiB, and the plan allows 30"):
        bench.answer("snapshot client-x", OPERATOR)


def test_zero_means_no_limit(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SNAPSHOTS__RESERVE="0", MAUTIC_OPS_SNAPSHOTS__LIMIT="0")
    bench.done("new client-x", OPERATOR)
    hour(bench)
    bench.lxd.rewrite("client-x", 25 * GIB)
    with pytest.raises(PoolFull):
        bench.lxd.rewrite("client-x", 25 * GIB)
    hour(bench)
    assert len(names(bench, "client-x")) == 2
    assert "snapshots" not in {kind for _, kind in incidents(bench)}


def test_a_container_left_frozen_by_a_crash_is_thawed_and_one_that_somebody_froze_is_not(bench: Bench) -> None:
    for name in ("client-x", "client-y"):
        bench.lxd.world.machines[name].status = "Frozen"
    bench.lxd.update("client-x", as_labels(taken=1))
    snapshots(bench.context)
    bench.finish()
    assert [bench.lxd.instance(name).status for name in ("client-x", "client-y")] == ["Running", "Frozen"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_snapshot_during_which_files_vanish_is_tried_again_at_once(bench: Bench, times: int) -> None:
    bench.lxd.restless["client-x"] = times
    done = bench.done("snapshot client-x", OPERATOR)
    assert done.state == "succeeded"
    assert names(bench, "client-x") == [done.steps[0].note.partition(",")[0]]


def test_a_tenant_whose_files_vanish_all_the_time_is_frozen_for_its_snapshot(bench: Bench) -> None:
    bench.lxd.restless["client-x"] = 10
    done = bench.done("snapshot client-x", OPERATOR)
    assert done.state == "succeeded"
    assert bench.lxd.restless["client-x"] == 8
    assert names(bench, "client-x") == [done.steps[0].note.partition(",")[0]]


def test_settings_of_an_earlier_version_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text("[snapshots]\nhourly = 2\n[health]\npool = 90\n")
    settings = load(file, {})
    assert (settings.snapshots.reserve, settings.snapshots.limit, settings.health.snapshots) == (10, 100, 85)
    file.write_text("[snapshots]\nreserve = 101\n")
    with pytest.raises(InvalidSettings):
        load(file, {})
