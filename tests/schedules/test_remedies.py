"""Each remedy that an incident names is tried on a real problem, and the next sweep finds nothing more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bot.guest.simulated import change
from bot.model.findings import kind as row
from bot.store import metrics
from schedules.health import health
from tests.support.bot import OPERATOR, Bench, live, make_bench, make_desk
from tests.support.simulated_lxd import SimulatedLxd
from tests.support.sweep import look_for_an_hour

GIB = 1 << 30
TROUBLES: dict[str, dict[str, Any]] = {
    "database": {"stopped": ["mariadb"]},
    "web": {"stopped": ["nginx"]},
    "worker": {"stopped": ["mautic-worker@email"], "queue_age": 9000},
    "queue": {"queue_age": 9000},
    "cron": {"stopped": ["cron"], "crons_ended": 1.0},
    "jobs": {"crons_ended": 1.0},
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)


def sweep(bench: Bench) -> dict[str, str]:
    """Run a sweep; return the open incidents by kind."""
    bench.clock.move(300)
    health(bench.context)
    return {one.kind: one.text for one in bench.context.incidents.open()}


@pytest.mark.parametrize("kind", TROUBLES)
def test_the_restart_button_of_an_incident_solves_the_problem(tmp_path: Path, kind: str) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    look_for_an_hour(bench)
    change(bench.lxd, "client-x", **TROUBLES[kind])
    assert set(sweep(bench)) == {kind}
    (incident,) = bench.context.incidents.open()
    desk = make_desk(bench)
    labels = [one["text"]["text"] for one in bench.context.incidents.head(incident).blocks[-2]["elements"]]
    assert row(kind).buttons["restart"].button in labels
    desk.click("incident_restart", incident.mark, OPERATOR)
    bench.finish()
    assert bench.context.operations.select("1 = 1", order="id DESC")[0].state == "succeeded"
    assert sweep(bench) == {}


def test_the_command_in_the_incident_starts_a_container_that_stopped(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.lxd.stop("client-x")
    (advice,) = re.findall(r"`/mautic ([^`]+)`", sweep(bench)["stopped"])
    assert bench.done(advice, OPERATOR).state == "succeeded"
    assert live(bench)
    assert sweep(bench) == {}


def test_the_button_that_starts_a_container_runs_the_command_in_the_incident(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    bench.lxd.stop("client-x")
    sweep(bench)
    (incident,) = bench.context.incidents.open()
    desk = make_desk(bench)
    desk.click("incident_start", incident.mark, OPERATOR)
    assert (desk.last().command, desk.last().requester) == ("start", OPERATOR.id)
    bench.finish()
    assert live(bench)
    assert sweep(bench) == {}


def test_a_button_that_its_incident_does_not_have_does_nothing(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    bench.lxd.stop("client-x")
    sweep(bench)
    (incident,) = bench.context.incidents.open()
    desk = make_desk(bench)
    known = len(bench.context.operations.select("1 = 1"))
    desk.click("incident_delete", incident.mark, OPERATOR)
    assert "no longer helps" in bench.slack.to(OPERATOR.id)[-1]
    assert len(bench.context.operations.select("1 = 1")) == known


def test_a_container_that_stopped_with_a_full_disk_is_enlarged_and_then_started(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="900GiB", subnet="10.70.0.1/24")
    bench.done("new client-x")
    bench.lxd.fill("client-x", 30 * GIB)
    sweep(bench)
    bench.lxd.stop("client-x", force=True)
    advice = re.findall(r"`/mautic ([^`]+)`", sweep(bench)["stopped"])
    assert advice == ["resize client-x --plan medium", "start client-x"]
    for text in advice:
        operation = bench.done(text, OPERATOR)
        assert operation.state == "succeeded", operation.outcome
    # The simulation does not bring the database back with the container.
    assert not {"stopped", "disk"} & set(sweep(bench))


def test_the_snapshot_named_in_the_incident_can_be_deleted(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="900GiB", subnet="10.70.0.1/24")
    bench.done("new client-x")
    for _ in range(2):
        bench.clock.move(60)
        bench.done("snapshot client-x", OPERATOR)
        bench.lxd.rewrite("client-x", 14 * GIB)
    oldest, _ = [one.name for one in bench.lxd.snapshots("client-x")]
    metrics.note_snapshots(bench.context.database, "client-x", bench.clock(), [14 * GIB, 14 * GIB])
    *_, advice = re.findall(r"`/mautic ([^`]+)`", sweep(bench)["snapshots"])
    assert advice == f"prune client-x {oldest}"
    assert bench.done(advice, OPERATOR).state == "succeeded"
    assert oldest not in [one.name for one in bench.lxd.snapshots("client-x")]


def test_the_move_named_in_the_incident_relieves_a_full_pool(tmp_path: Path) -> None:
    other = SimulatedLxd(pool_bytes=100 * GIB)
    bench = make_bench(tmp_path, others={"solo": other})
    for name in ("client-x", "client-y"):
        bench.done(f"new {name} --host local")
    bench.lxd.fill("client-x", 20 * GIB)
    bench.lxd.fill("client-y", 5 * GIB)
    assert sweep(bench) == {}
    bench.lxd.fill("client-y", 6 * GIB)
    (advice,) = re.findall(r"`/mautic ([^`]+)`", sweep(bench)["pool"])
    assert advice == "migrate client-x solo", "the largest that fits there"
    moved = bench.done(advice, OPERATOR)
    assert moved.state == "succeeded", moved.outcome
    bench.done("purge client-x client-x", OPERATOR)
    assert sweep(bench) == {}


def test_no_move_to_an_overloaded_host_is_named(tmp_path: Path) -> None:
    other = SimulatedLxd(pool_bytes=100 * GIB)
    bench = make_bench(tmp_path, others={"solo": other})
    bench.done("new client-x --host local")
    bench.lxd.fill("client-x", 27 * GIB)
    other.load = 10_000.0
    for _ in range(2):
        # The first sweep measures what client-x uses.
        told = sweep(bench)
        assert {"pool", "strain"} <= set(told)
        assert "/mautic" not in told["pool"]
    other.load = 0.0
    assert "`/mautic migrate client-x solo` moves a tenant away" in sweep(bench)["pool"]


def test_no_move_is_named_if_no_host_has_free_space(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, others={"solo": SimulatedLxd(pool_bytes=2 * GIB)})
    bench.done("new client-x --host local")
    bench.lxd.fill("client-x", 27 * GIB)
    assert "/mautic" not in sweep(bench)["pool"]
    assert "Enlarge the pool." in sweep(bench)["pool"]


def test_the_command_in_the_incident_gives_more_memory(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    change(bench.lxd, "client-x", memory=int(2.9 * GIB))
    (advice,) = re.findall(r"`/mautic ([^`]+)`", sweep(bench)["memory"])
    assert advice == "resize client-x --plan medium"
    assert bench.done(advice, OPERATOR).state == "succeeded"
    assert sweep(bench) == {}


def test_if_no_plan_is_larger_the_incident_says_so(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="900GiB", subnet="10.70.0.1/24")
    bench.done("new client-x --plan large")
    bench.lxd.fill("client-x", 249 * GIB)
    assert "No plan has more disk" in sweep(bench)["disk"]
