"""A tenant that refuses, does not answer or has a full disk can still be stopped, suspended, deleted and restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.guest import simulated as simulated_tenant
from bot.lxd.protocol import LxdUnavailable
from bot.model.labels import label_of
from tests.support.bot import LEAD, OPERATOR, Bench, live, make_bench

CONTAINING = ("stop client-x", "suspend client-x", "delete client-x")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with the tenant client-x."""
    bench = make_bench(tmp_path)
    assert bench.done("new client-x", OPERATOR).state == "succeeded"
    return bench


def _closed(bench: Bench) -> bool:
    return not live(bench) and all(
        not one.running or label_of(one.config, "network-before")
        for one in bench.lxd.instances()
        if "client" in one.name
    )


@pytest.mark.parametrize("text", ["stop client-x", "delete client-x"])
def test_a_tenant_that_does_not_shut_down_is_stopped_by_force(bench: Bench, text: str) -> None:
    bench.lxd.deaf.add("client-x")
    done = bench.done(text, OPERATOR)
    assert done.state == "succeeded"
    assert "by force: it did not end by itself within 60 s" in [step.note for step in done.steps]
    assert _closed(bench)


def test_a_tenant_that_does_not_shut_down_is_restarted_by_force(bench: Bench) -> None:
    bench.lxd.deaf.add("client-x")
    done = bench.done("restart client-x", OPERATOR)
    assert (done.state, done.steps[0].note) == ("succeeded", "by force: it did not end by itself within 60 s")
    assert live(bench)


def test_a_tenant_that_refuses_to_close_is_suspended_and_resumed(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", refuses=["close"])
    done = bench.done("suspend client-x", OPERATOR)
    assert (done.state, done.steps[-1].note) == (
        "succeeded",
        "it did not close itself; its network was cut all the same",
    )
    assert _closed(bench)
    assert bench.done("restart client-x", OPERATOR).state == "succeeded"
    assert _closed(bench), "a restart keeps it suspended"
    simulated_tenant.change(bench.lxd, "client-x", refuses=[])
    assert bench.done("resume client-x", OPERATOR).state == "succeeded"
    assert live(bench)
    assert not label_of(bench.lxd.instance("client-x").config, "network-before")


def test_a_suspended_tenant_is_cut_off_from_the_network(bench: Bench) -> None:
    """Its word that it has closed itself is not enough: a hacked tenant may lie."""
    assert bench.done("suspend client-x", OPERATOR).state == "succeeded"
    assert bench.lxd.instance("client-x").devices["eth0"] == {"type": "none"}


def test_a_tenant_that_does_not_answer_is_suspended(bench: Bench) -> None:
    bench.lxd.fail_next("execute", LxdUnavailable("LXD did not run `python3` in `client-x` within 180 seconds."), 2)
    assert bench.done("suspend client-x", OPERATOR).state == "succeeded"
    assert _closed(bench)


def test_a_suspension_that_is_rolled_back_restores_the_network(bench: Bench) -> None:
    bench.lxd.fail_next("isolate", LxdUnavailable("LXD does not answer."), after=True)
    assert bench.done("suspend client-x", OPERATOR).state == "failed"
    assert live(bench)
    assert not label_of(bench.lxd.instance("client-x").config, "network-before")


@pytest.mark.parametrize("text", CONTAINING)
def test_a_tenant_with_a_full_disk_is_contained_without_a_bigger_plan(bench: Bench, text: str) -> None:
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    bench.lxd.fill("client-x", 40 << 30)
    assert bench.done(text, OPERATOR).state == "succeeded"
    assert _closed(bench)


def test_a_hacked_tenant_that_refuses_everything_is_restored(bench: Bench) -> None:
    taken = bench.done("snapshot client-x", OPERATOR).steps[0].note.partition(",")[0]
    simulated_tenant.change(bench.lxd, "client-x", refuses=["stop_work", "backup_lock", "unquiesce"])
    bench.lxd.deaf.add("client-x")
    bench.clock.move(60)
    assert bench.done(f"restore client-x {taken}", LEAD).state == "succeeded"
    assert live(bench)
    assert bench.lxd.instance("client-x").status == "Stopped"


def test_a_snapshot_taken_during_a_suspension_is_restored_with_a_network(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    taken = bench.done("snapshot client-x", OPERATOR).steps[0].note.partition(",")[0]
    bench.clock.move(60)
    bench.done("resume client-x", OPERATOR)
    assert bench.done(f"restore client-x {taken}", LEAD).state == "succeeded"
    assert live(bench)
