"""An overloaded host: nothing new begins there, one incident reports it, and all goes on when it recovers."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from bot.engine import guards
from bot.engine.context import Context
from bot.guest.simulated import change
from bot.lxd.protocol import Resources
from bot.model.plan import Refused
from bot.store import recovery
from bot.store.metrics import HostReading, pool_history, record
from schedules.health import health
from schedules.snapshots import snapshots
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, add_blueprint, events, make_bench, make_desk, notes
from tests.support.simulated_lxd import SimulatedLxd

GIB = 1 << 30


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A host of 64 GiB in a cluster of two, with one tenant on the first."""
    lxd = SimulatedLxd(memory=64 * GIB, members=("node1", "node2"))
    add_blueprint(lxd)
    made = make_bench(tmp_path, lxd, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    made.context.fleet.fresh = 0
    made.done("new client-x --host node1")
    return made


def overload(bench: Bench, *, over: bool = False) -> None:
    """Let client-x take nearly all memory of node1, or (`over`) give it back."""
    bench.lxd.memory_of = lambda name: GIB if over or name != "client-x" else 61 * GIB


def shown(message: Any) -> str:
    return json.dumps(message.blocks, ensure_ascii=False)


def test_an_operation_waits_for_an_overloaded_host_and_starts_when_it_recovers(bench: Bench) -> None:
    held = bench.approve(bench.ask("new client-y --host node1"))
    elsewhere = bench.approve(bench.ask("new client-z --host node2"))
    overload(bench)
    bench.finish()
    get = bench.context.operations.get
    # It waits, and blocks no other operation.
    assert get(held.id).state == "queued"
    assert get(elsewhere.id).state == "succeeded"
    assert "`node1` is overloaded: " in get(held.id).outcome
    for _ in range(3):
        bench.finish()
    assert events(bench, held).count("operation.held") == 1
    assert sum("The operation starts when the host recovers" in note for note in notes(bench, held)) == 1
    overload(bench, over=True)
    bench.finish()
    ended = get(held.id)
    assert (ended.state, ended.outcome, ended.attempts) == ("succeeded", "done", 1)


def test_the_card_says_that_the_operation_waits(bench: Bench) -> None:
    desk = make_desk(bench)
    desk.command("new client-y --host node1")
    desk.click("approve", desk.last().id)
    overload(bench)
    bench.finish()
    desk.announce()
    assert "*Waiting:*" in str(bench.slack.said[-1]) or any("*Waiting:*" in str(one) for one in bench.slack.said)


def test_operations_that_need_no_memory_run_on_an_overloaded_host(bench: Bench) -> None:
    overload(bench)
    assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    assert bench.done("stop client-x", OPERATOR).state == "succeeded"


def test_an_operation_that_waits_for_a_host_can_be_cancelled(bench: Bench) -> None:
    held = bench.approve(bench.ask("new client-y --host node1"))
    overload(bench)
    bench.finish()
    bench.context.approvals.cancel(held.id, ASKER)
    assert bench.context.operations.get(held.id).state == "cancelled"
    # An operation that is about to start, and does not wait, cannot be cancelled.
    other = bench.approve(bench.ask("new client-z --host node2"))
    with pytest.raises(Refused):
        bench.context.approvals.cancel(other.id, ASKER)


def test_an_operation_that_has_begun_is_finished_on_an_overloaded_host(tmp_path: Path) -> None:
    lxd = SimulatedLxd(memory=64 * GIB)
    add_blueprint(lxd)

    def fault(moment: str) -> None:
        if moment == "ran 0":
            raise KeyboardInterrupt

    bench = make_bench(tmp_path, lxd, fault)
    bench.approve(bench.ask("new client-y"))
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    again = make_bench(tmp_path, lxd)
    again.context.fleet.fresh = 0
    lxd.load = 10_000.0
    recovery.recover(again.context.operations)
    again.finish()
    assert again.context.operations.get(1).state == "succeeded"


def test_maintenance_skips_an_overloaded_host(bench: Bench) -> None:
    bench.done("new client-y --host node2")
    overload(bench)
    bench.clock.move(2 * 86_400)
    snapshots(bench.context)
    asked = bench.context.operations.select("requester = 'system'")
    assert {one.tenant for one in asked} == {"client-y"}
    overload(bench, over=True)
    snapshots(bench.context)
    asked = bench.context.operations.select("requester = 'system'")
    assert {one.tenant for one in asked} == {"client-y", "client-x"}


def test_an_overload_is_one_incident_that_closes_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schedules.health.AGAIN", 0)
    overload(bench)
    for _ in range(3):
        health(bench.context)
        bench.clock.move(300)
    (incident,) = [one for one in bench.context.incidents.open() if one.kind == "strain"]
    assert (incident.server, incident.title) == ("node1", "host overloaded")
    assert "less than half of the reserve" in incident.text
    assert "Nothing that needs memory starts there" in incident.text
    overload(bench, over=True)
    health(bench.context)
    assert [one for one in bench.context.incidents.open() if one.kind == "strain"] == []
    opened = bench.context.database.read("SELECT count(*) AS n FROM incidents WHERE kind = 'strain'")
    assert opened[0]["n"] == 1


def test_a_sweep_runs_nothing_on_an_overloaded_host_and_closes_no_incident_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schedules.health.AGAIN", 0)
    change(bench.lxd, "client-x", stopped=["cron"])
    for _ in range(2):
        health(bench.context)
        bench.clock.move(300)
    overload(bench)
    executed = bench.lxd.calls["execute"]
    health(bench.context)
    assert bench.lxd.calls["execute"] == executed
    assert {one.kind for one in bench.context.incidents.open()} == {"cron", "strain"}


def test_load_counts_only_where_lxd_reports_it(bench: Bench) -> None:
    bench.lxd.load = 64 * 8.0 + 1
    assert "load 513" in shown(bench.answer("hosts"))
    bench.lxd.load = None
    bench.lxd.latency = {"resources": 0.02}
    assert "Overloaded" not in shown(bench.answer("hosts"))


def test_hosts_home_and_digest_show_memory_and_how_many_more_fit(bench: Bench) -> None:
    text = shown(bench.answer("hosts"))
    assert "memory free · fits " in text
    assert " small, " in text
    assert " large more" in text
    health(bench.context)
    desk = make_desk(bench)
    calls = sum(bench.lxd.calls.values())
    digest = shown(bench.answer("digest", OPERATOR))
    assert "Memory on node1: " in digest
    # One request for the inventory; the rest is what the last sweep found.
    assert sum(bench.lxd.calls.values()) - calls == 1
    desk.invocations.handle("home", "home-1", {"user": LEAD.id, "team": "T0OURS"})
    assert "memory free; fits " in str(bench.slack.homes[LEAD.id])
    assert "memory free" not in shown(bench.answer("list"))
    assert "free on node1" in shown(bench.answer("doctor"))


def test_a_full_host_fits_no_more_tenants(bench: Bench) -> None:
    bench.lxd.memory_of = lambda name: 57 * GIB if name == "client-x" else GIB
    (line,) = [one for one in shown(bench.answer("hosts")).split("*node") if one.startswith("1*")]
    assert "fits no more" in line


def test_a_database_without_memory_figures_of_hosts_is_migrated(tmp_path: Path) -> None:
    """Figures from before memory was measured stay, and new ones are stored beside them."""
    bench = make_bench(tmp_path)
    bench.context.database.close()
    with sqlite3.connect(tmp_path / "bot.db") as old:
        for column in ("memory", "memory_total", "load"):
            old.execute(f"ALTER TABLE host_samples DROP COLUMN {column}")
        old.execute("DELETE FROM _sqlite_migrations WHERE name = 'm019_host_memory'")
        old.execute(
            "INSERT INTO host_samples (span, at, host, looks, used, total) VALUES (0, 1799999000, 'local', 1, 5, 9)"
        )
    again = make_bench(tmp_path, bench.lxd)
    now = again.clock.at
    assert "Memory on" not in shown(again.answer("digest", OPERATOR))
    with again.context.database.transaction() as transaction:
        record(transaction, now, [], {"local": HostReading(6, 9, memory=3, memory_total=8, load=0.5)})
    before, after = pool_history(again.context.database, "local", now - 3600, now, 0)
    assert (before.used, before.memory) == (5, None)
    assert (after.used, after.memory, after.memory_total, after.load) == (6, 3, 8, 0.5)
    assert Resources(8, 3, 1).available == 5


def test_a_stopped_tenant_on_an_overloaded_host_is_still_reported(bench: Bench) -> None:
    """The inventory shows it without any work on the host, but not at once: the host may be starting its tenants."""
    bench.done("new client-y --host node1")
    overload(bench)
    bench.lxd.stop("client-y", force=True)
    health(bench.context)
    assert [one.kind for one in bench.context.incidents.open()] == ["strain"]
    for _ in range(60):
        bench.clock.move(60)
        health(bench.context)
    found = {(one.subject, one.kind) for one in bench.context.incidents.open()}
    assert found == {("node1", "strain"), ("client-y", "stopped")}


def test_a_slow_host_is_asked_once_for_all_operations_that_wait_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        bench.approve(bench.ask(f"new client-{name} --host node1"))
    elsewhere = bench.approve(bench.ask("new client-z --host node2"))
    asked: list[str] = []

    def slow(context: Context, host: str) -> str:
        asked.append(host)
        if host == "node2":
            return ""
        time.sleep(0.2)
        return "its LXD does not answer"

    monkeypatch.setattr(guards, "overloaded", slow)
    monkeypatch.setattr(guards, "SLOW", 0.1)
    assert bench.runner.run_one()
    assert bench.context.operations.get(elsewhere.id).state == "succeeded"
    assert asked.count("node1") == 1
