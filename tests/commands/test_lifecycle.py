"""`/mautic start`, `stop`, `restart`, `suspend`, `resume` and `resize`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.guest import simulated as simulated_tenant
from bot.guest.mautic import Disk, Mautic
from bot.lxd.protocol import LxdError, PoolFull, size_bytes
from bot.model.labels import label_of
from bot.model.plan import Refused
from bot.store import recovery
from schedules.health import health
from tests.support.bot import OPERATOR, Bench, live, make_bench, notes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def test_a_stopped_tenant_stays_stopped_until_it_is_started(bench: Bench) -> None:
    assert bench.done("stop client-x", OPERATOR).state == "succeeded"
    instance = bench.lxd.instance("client-x")
    assert (instance.running, instance.config["boot.autostart"]) == (False, "false")
    assert not live(bench)
    assert bench.done("start client-x", OPERATOR).state == "succeeded"
    assert bench.lxd.instance("client-x").config["boot.autostart"] == "true"
    assert live(bench)


@pytest.mark.parametrize("on_purpose", [True, False])
def test_a_failed_start_leaves_stopped_only_what_was_stopped_on_purpose(
    bench: Bench, on_purpose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_purpose:
        bench.done("stop client-x", OPERATOR)
    bench.lxd.stop("client-x")
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    probe = bench.context.edge.probe
    monkeypatch.setattr(bench.context.edge, "probe", lambda domain: replace(probe(domain), login=False))
    assert bench.done("start client-x", OPERATOR).state == "failed"
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.stopped, tenant.status) == (on_purpose, "Stopped" if on_purpose else "Running")
    monkeypatch.undo()
    if on_purpose:
        assert bench.done("start client-x", OPERATOR).state == "succeeded"
    assert live(bench)


def test_starting_needs_no_approval(bench: Bench) -> None:
    bench.done("stop client-x", OPERATOR)
    assert bench.ask("start client-x", OPERATOR).state == "queued"


def test_a_suspended_tenant_sends_nothing_until_it_is_resumed(bench: Bench) -> None:
    assert bench.done("suspend client-x", OPERATOR).state == "succeeded"
    assert not live(bench)
    assert simulated_tenant.read(bench.lxd, "client-x").stopped == ["mautic-worker@email"]
    assert bench.done("restart client-x", OPERATOR).steps[-1].note == "still suspended"
    assert not live(bench)
    assert bench.done("resume client-x", OPERATOR).state == "succeeded"
    assert simulated_tenant.read(bench.lxd, "client-x").stopped == []
    assert live(bench)


def test_one_part_is_restarted_and_nothing_else(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", stopped=["cron", "mautic-worker@email"])
    bench.lxd.calls.clear()
    assert bench.done("restart client-x --part worker", OPERATOR).state == "succeeded"
    assert simulated_tenant.read(bench.lxd, "client-x").stopped == ["cron"]
    assert bench.lxd.calls["stop"] == 0


def test_another_plan_changes_the_limits_the_disk_and_mariadb(bench: Bench) -> None:
    assert bench.done("resize client-x --plan medium", OPERATOR).state == "succeeded"
    instance = bench.lxd.instance("client-x")
    assert (instance.config["limits.memory"], instance.devices["root"]["size"]) == ("8GiB", "80GiB")
    assert label_of(instance.config, "plan") == "medium"
    assert b'"innodb_buffer_pool": "3G"' in bench.lxd.pull("client-x", "/var/lib/mautic-ops/resize.json")


def test_a_failed_resize_leaves_the_previous_plan(bench: Bench) -> None:
    bench.done("resize client-x --plan medium", OPERATOR)
    bench.lxd.fail_next("update", LxdError("LXD could not update it."))
    assert bench.done("resize client-x --plan large", OPERATOR).state == "failed"
    config = bench.lxd.instance("client-x").config
    assert (label_of(config, "plan"), config["limits.memory"]) == ("medium", "8GiB")


def test_a_stopped_tenant_gets_no_smaller_plan(bench: Bench) -> None:
    bench.done("resize client-x --plan medium", OPERATOR)
    bench.done("stop client-x", OPERATOR)
    with pytest.raises(Refused, match="is stopped, so its memory cannot be reduced; `/mautic start client-x` first"):
        bench.answer("resize client-x --plan small", OPERATOR)


def test_a_tenant_that_crashes_before_it_is_resized_gets_no_smaller_plan(bench: Bench) -> None:
    bench.done("resize client-x --plan medium", OPERATOR)
    operation = bench.ask("resize client-x --plan small", OPERATOR)
    bench.approve(operation)
    bench.lxd.stop("client-x")
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "failed"
    assert bench.context.fleet.tenant("client-x").plan == "medium"
    assert bench.lxd.instance("client-x").config["limits.memory"] == "8GiB"


def test_a_tenant_that_was_resized_while_stopped_is_resized_again_once_it_runs(bench: Bench) -> None:
    """MariaDB uses the new memory only after the second resize."""
    bench.done("stop client-x", OPERATOR)
    done = bench.done("resize client-x --plan medium", OPERATOR)
    assert "client-x is stopped: run the same resize again" in done.steps[-1].note
    assert "run `/mautic resize client-x --plan medium` again after its start" in notes(bench, done)[-1]
    bench.done("start client-x", OPERATOR)
    assert bench.done("resize client-x --plan medium", OPERATOR).state == "succeeded"
    assert b'"innodb_buffer_pool": "3G"' in bench.lxd.pull("client-x", "/var/lib/mautic-ops/resize.json")
    with pytest.raises(Refused, match="already has the plan medium"):
        bench.answer("resize client-x --plan medium", OPERATOR)


def test_mariadb_gives_memory_back_before_the_limit_is_lowered(bench: Bench) -> None:
    bench.done("resize client-x --plan medium", OPERATOR)
    limits = []

    def look(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "execute" and "resize" in arguments[1]:
            limits.append(bench.lxd.world.machines["client-x"].config["limits.memory"])

    bench.lxd.on_call = look
    assert bench.done("resize client-x --plan small", OPERATOR).state == "succeeded"
    assert limits == ["8GiB", "3GiB"]


@pytest.mark.parametrize(
    ("before", "text", "why"),
    [
        ((), "start client-x", "is already running"),
        ((), "resume client-x", "is not suspended"),
        ((), "resize client-x --plan small", "already has the plan small"),
        ((), "resize client-x --plan huge", "no plan “huge”"),
        (("stop client-x",), "stop client-x", "is not running"),
        (("stop client-x",), "restart client-x", "is not running"),
        (("stop client-x",), "suspend client-x", "start client-x` first"),
        (("suspend client-x",), "suspend client-x", "is already suspended"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(bench: Bench, before: tuple[str, ...], text: str, why: str) -> None:
    for earlier in before:
        bench.done(earlier, OPERATOR)
    with pytest.raises(Refused, match=why):
        bench.answer(text, OPERATOR)


def test_a_full_disk_is_enlarged_by_a_bigger_plan(bench: Bench) -> None:
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    bench.lxd.fill("client-x", size_bytes(bench.context.settings.plans["small"].disk))
    with pytest.raises(PoolFull):
        bench.lxd.push("client-x", "/root/more", b"x")
    ended = bench.done("resize client-x --plan medium", OPERATOR)
    assert ended.state == "succeeded", ended.outcome
    assert bench.context.fleet.tenant("client-x").plan == "medium"


@pytest.fixture
def roomy(bench: Bench) -> Bench:
    """Return a bench whose pool has space for every plan."""
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    return bench


def grown(bench: Bench, used: int) -> None:
    """Give the tenant the plan medium, and have it use so many bytes, all of them in a snapshot too."""
    bench.done("resize client-x --plan medium", OPERATOR)
    bench.lxd.fill("client-x", used)
    bench.lxd.snapshot("client-x", "all-of-it")
    assert bench.lxd.state("client-x").disk < 1 << 20, "LXD counts only bytes that no snapshot shares"


def test_a_disk_is_not_made_smaller_than_its_use_and_a_margin(roomy: Bench) -> None:
    grown(roomy, 28 << 30)
    with pytest.raises(
        Refused, match=r"uses 28\.0 GiB of disk, too much for the 30\.0 GiB of small, of which at most 90%"
    ):
        roomy.answer("resize client-x --plan small", OPERATOR)
    roomy.lxd.fill("client-x", 26 << 30)
    assert roomy.done("resize client-x --plan small", OPERATOR).state == "succeeded"


def test_the_use_of_the_disk_is_checked_again_at_the_approval_and_at_the_run(roomy: Bench) -> None:
    grown(roomy, 20 << 30)
    asked = roomy.ask("resize client-x --plan small", OPERATOR)
    roomy.lxd.fill("client-x", 29 << 30)
    with pytest.raises(Refused, match=r"too much for the 30\.0 GiB of small"):
        roomy.approve(asked)
    roomy.lxd.fill("client-x", 20 << 30)
    approved = roomy.approve(roomy.ask("resize client-x --plan small", OPERATOR))

    def fault(moment: str) -> None:
        if moment == "started 0":
            roomy.lxd.fill("client-x", 29 << 30)

    roomy.runner.fault = fault
    roomy.finish()
    ended = roomy.context.operations.get(approved.id)
    assert (ended.state, "too much for the 30.0 GiB of small" in ended.outcome) == ("failed", True)
    assert roomy.lxd.instance("client-x").devices["root"]["size"] == "80GiB"
    assert roomy.context.fleet.tenant("client-x").plan == "medium"


def test_a_disk_that_cannot_be_measured_is_not_made_smaller(roomy: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(roomy, 1 << 30)
    unknown = Disk(None, 80 << 30, 1 << 30)
    monkeypatch.setattr(Mautic, "disk", lambda *_, **__: unknown)
    with pytest.raises(Refused, match="cannot be measured on local, so the smaller disk"):
        roomy.answer("resize client-x --plan small", OPERATOR)


def test_the_advice_of_its_incident_helps_a_tenant_with_a_full_disk(roomy: Bench) -> None:
    roomy.lxd.fill("client-x", 40 << 30)
    roomy.clock.move(60)
    health(roomy.context)
    told = {one.kind: one.text for one in roomy.context.incidents.open()}
    assert set(told) == {"disk", "page"}, "the cause, and that the client is offline"
    assert "mariadb" in simulated_tenant.read(roomy.lxd, "client-x").stopped
    for useless in ("restart client-x", "restart client-x --part database"):
        with pytest.raises(Refused, match=r"disk of `client-x` is full \(.*; first `/mautic resize client-x --plan m"):
            roomy.answer(useless, OPERATOR)
    (advice,) = re.findall(r"`/mautic ([^`]+)`", told["disk"])
    assert roomy.done(advice, OPERATOR).state == "succeeded"
    assert simulated_tenant.read(roomy.lxd, "client-x").stopped == []
    roomy.clock.move(60)
    health(roomy.context)
    assert roomy.context.incidents.open() == []


def test_a_crashed_tenant_with_a_full_disk_is_enlarged_and_then_started(roomy: Bench) -> None:
    roomy.lxd.fill("client-x", 40 << 30)
    roomy.clock.move(60)
    health(roomy.context)
    roomy.lxd.world.machines["client-x"].status = "Stopped"
    roomy.clock.move(300)
    health(roomy.context)
    told = {one.kind: one.text for one in roomy.context.incidents.open()}
    assert "when last measured" in told["disk"]
    first, then = re.findall(r"`/mautic ([^`]+)`", told["stopped"])
    with pytest.raises(Refused, match=f"first `/mautic {first}`"):
        roomy.answer(then, OPERATOR)
    assert roomy.done(first, OPERATOR).state == "succeeded"
    assert roomy.done(then, OPERATOR).state == "succeeded"


def test_a_failed_resize_of_a_full_disk_keeps_the_larger_plan(roomy: Bench) -> None:
    roomy.lxd.fill("client-x", 40 << 30)

    def fail(moment: str) -> None:
        if moment == "started 1":
            raise LxdError("MariaDB did not start within 60 s.")

    roomy.runner.fault = fail
    ended = roomy.done("resize client-x --plan medium", OPERATOR)
    assert (ended.state, ended.outcome) == ("failed", "MariaDB did not start within 60 s.")
    assert roomy.lxd.instance("client-x").devices["root"]["size"] == "80GiB"
    assert "client-x keeps the plan medium" in str(ended.aftermath) + notes(roomy, ended)[-1]
    roomy.runner.fault = lambda moment: None
    recovery.retry(roomy.context.operations, ended, OPERATOR.id)
    roomy.finish()
    assert roomy.context.operations.get(ended.id).state == "succeeded"
    assert live(roomy)


def test_a_resize_finishes_even_if_the_disk_fills_up_meanwhile(bench: Bench) -> None:
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    operation = bench.approve(bench.ask("resize client-x --plan medium", OPERATOR))

    def fault(moment: str) -> None:
        if moment == "recorded 0":
            bench.lxd.fill("client-x", 79 << 30)
            raise KeyboardInterrupt

    bench.runner.fault = fault
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    recovery.recover(bench.context.operations)
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert ended.state == "succeeded", ended.outcome
