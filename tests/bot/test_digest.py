"""What the digest gathers: missing snapshots, what fills up, what waits, and what changed in the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bot.engine.maintenance import Maintenance, forget
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.labels import as_labels
from bot.reports.digest import FailedMaintenance, gather
from bot.slack.incidents import Seen
from bot.store import audit, claims, metrics, progress
from bot.store.metrics import DAY, Reading
from bot.store.operation import SYSTEM
from tests.support.bot import OPERATOR, ROOM_FOR_MANY, Bench, add_blueprint, make_bench
from tests.support.simulated_lxd import SimulatedLxd

GIB = 1 << 30


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench whose LXD uses its clock, with two tenants whose last snapshot is an hour old."""
    bench = make_bench(tmp_path)
    bench.lxd.clock = bench.clock
    for name in ("client-x", "client-y"):
        bench.done(f"new {name}")
    bench.clock.move(3 * DAY)
    for name in ("client-x", "client-y"):
        snapshot(bench, name)
    bench.clock.move(3600)
    return bench


def snapshot(bench: Bench, tenant: str) -> None:
    """Let the bot take a snapshot by itself."""
    Maintenance(bench.context).ask("snapshot", bench.answer(f"snapshot {tenant}"))
    bench.finish()


def sampled(bench: Bench, days: int, disk: Mapping[str, list[int]], pool: list[int]) -> None:
    """Record past measurements, one a day: each tenant's disk and the use of a pool of 30 GiB, in GiB."""
    now = bench.clock()
    for day in range(days):
        at = now - (days - 1 - day) * DAY
        with bench.context.database.transaction() as transaction:
            readings = [Reading(name, disk=each[day] * GIB, memory=each[day] << 27) for name, each in disk.items()]
            metrics.record(transaction, at, readings, {"local": metrics.HostReading(pool[day] * GIB, 30 * GIB)})


def opened(bench: Bench, tenant: str, *kinds: str) -> None:
    """Open these incidents of a tenant, and close all others."""
    findings = tuple(Finding(kind, f"What is wrong with {kind}.") for kind in kinds)
    with bench.context.database.transaction() as transaction:
        bench.context.incidents.judge(transaction, Seen({tenant: Diagnosis(findings)}, {}))


def test_a_fleet_without_problems_is_well(bench: Bench) -> None:
    found = gather(bench.context, bench.clock() - DAY)
    assert found.well
    assert (found.words, len(found.tenants), found.taken) == ([("unknown", 2)], 2, 2)
    assert found.speaking == []


def test_tenants_without_a_recent_snapshot_are_named_oldest_first(bench: Bench) -> None:
    bench.done("new client-z")
    bench.clock.move(24 * 3600)
    assert gather(bench.context, bench.clock() - DAY).well, "a snapshot may be 25 hours old"
    bench.clock.move(2 * 3600)
    bench.lxd.snapshot("client-y", "s-2")
    found = gather(bench.context, bench.clock() - DAY)
    assert [(one.name, one.newest) for one in found.missing] == [("client-z", None), ("client-x", 27 * 3600)]
    assert found.problems == 2


def test_snapshots_are_counted_even_if_they_were_deleted_since(bench: Bench) -> None:
    (first,) = bench.lxd.snapshots("client-x")
    bench.clock.move(2 * DAY)
    for _ in range(3):
        snapshot(bench, "client-x")
    bench.done(f"prune client-x {first.name}", OPERATOR)
    bench.lxd.fail_next("snapshot", LxdError("no room"))
    snapshot(bench, "client-y")
    bench.clock.move(4 * DAY)
    forget(bench.context)
    for days, x, y in ((7, 4, 1), (5, 3, 0), (3, 0, 0)):
        found = gather(bench.context, bench.clock() - days * DAY)
        assert ([one.taken for one in found.tenants], found.taken) == ([x, y], x + y)
    bench.done("delete client-x", OPERATOR)
    assert gather(bench.context, bench.clock() - 7 * DAY).taken == 5


def test_a_restored_tenant_keeps_its_snapshots(bench: Bench) -> None:
    bench.done(f"restore client-x {bench.lxd.snapshots('client-x')[0].name}", OPERATOR)
    found = gather(bench.context, bench.clock() - DAY)
    assert [(one.name, one.taken, one.newest) for one in found.tenants] == [("client-x", 2, 0), ("client-y", 1, 3600)]
    assert found.missing == []


def test_where_the_policy_keeps_no_daily_snapshot_none_is_missing(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SNAPSHOTS__HOURLY="0", MAUTIC_OPS_SNAPSHOTS__DAILY="0")
    bench.done("new client-x")
    bench.clock.move(3 * DAY)
    assert gather(bench.context, bench.clock() - DAY).missing == []


def test_a_stopped_or_new_tenant_needs_no_snapshot(bench: Bench) -> None:
    bench.clock.move(2 * DAY)
    bench.lxd.stop("client-x")
    bench.lxd.update("client-y", as_labels(state="suspended"))
    bench.done("new client-z")
    assert gather(bench.context, bench.clock() - DAY).missing == []


def test_a_growing_disk_or_pool_says_in_how_many_days_it_is_full(bench: Bench) -> None:
    sampled(bench, 6, {"client-x": [10, 12, 14, 16, 18, 20], "client-y": [5] * 6}, [6, 7, 8, 9, 10, 11])
    found = gather(bench.context, bench.clock() - DAY)
    x, y = found.tenants
    assert x.disk
    assert y.disk
    assert x.disk.days == pytest.approx(5, abs=0.1)
    assert (x.high, y.high, y.disk.days) == (("disk",), (), None)
    assert x.memory
    assert (x.memory.used, x.memory.days) == (20 << 27, None), (
        "memory is measured inside and not forecast, as it grows at first"
    )
    assert [one.name for one in found.full] == ["client-x"]
    pool = found.pools["local"]
    assert (pool.used, pool.limit, pool.days) == (11 * GIB, 30 * GIB, pytest.approx(19, abs=0.3))
    assert found.full_pools == ()
    assert [round(share * 30) for _, share in pool.past] == [6, 7, 8, 9, 10, 11]


def test_a_nearly_full_pool_or_plan_is_reported_without_any_growth(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_HEALTH__MEMORY="4")
    bench.done("new client-x")
    sampled(bench, 2, {"client-x": [1, 1]}, [29, 29])
    found = gather(bench.context, bench.clock() - DAY)
    assert found.full_pools == ("local",)
    assert found.tenants[0].high == ("memory",)


def test_memory_is_what_the_last_sweep_measured(bench: Bench) -> None:
    found = gather(bench.context, bench.clock() - DAY)
    assert [one.memory for one in found.tenants] == [None, None]
    assert found.well
    sampled(bench, 1, {"client-x": [4]}, [9])
    memory = gather(bench.context, bench.clock() - DAY).tenants[0].memory
    assert memory
    assert (memory.used, memory.limit) == (4 << 27, 3 * GIB)


def test_ended_requests_are_counted_and_failed_ones_named(bench: Bench) -> None:
    since = bench.clock()
    bench.clock.move(60)
    bench.done("new client-z")
    bench.done("delete client-y", OPERATOR)
    bench.lxd.fail_next("copy", LxdUnavailable("no answer"))
    failed = bench.done("new client-w")
    waiting = bench.ask("new client-v")
    found = gather(bench.context, since)
    assert found.ended == {"succeeded": {"new": 1, "delete": 1}, "failed": {"new": 1}}
    assert ([one.id for one in found.failed], [one.id for one in found.waiting]) == ([failed.id], [waiting.id])
    assert (found.new, found.gone) == (("client-z",), ("client-y",))
    bench.clock.move(DAY)
    later = gather(bench.context, bench.clock() - DAY / 2)
    assert (later.ended, later.failed, later.new) == ({}, (), ())


def test_a_batch_counts_as_its_children(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x,client-y")
    bench.clock.move(60)
    found = gather(bench.context, bench.clock() - 3600)
    assert found.new == ("client-x", "client-y")
    assert found.ended == {"succeeded": {"new": 2}}


def test_entries_dated_in_the_future_belong_to_no_day(bench: Bench) -> None:
    bench.clock.move(400 * DAY)
    bench.done("new client-z")
    bench.lxd.fail_next("copy", LxdUnavailable("no answer"))
    bench.done("new client-w")
    bench.lxd.fail_next("snapshot", LxdError("no room"))
    snapshot(bench, "client-x")
    snapshot(bench, "client-y")
    opened(bench, "client-x", "cron")
    opened(bench, "client-x")
    bench.clock.move(-400 * DAY)
    found = gather(bench.context, bench.clock() - DAY)
    assert (found.ended, found.failed, found.failed_maintenance, found.new, found.recovered) == ({}, (), (), (), 0)
    assert (found.tenants[0].taken, found.tenants[0].newest) == (1, 3600)
    assert found.tenants[-1].operations == ()


def test_failed_maintenance_is_grouped_by_command(bench: Bench) -> None:
    context = bench.context
    plan = context.registry.plan(context, bench.ask("delete client-x", OPERATOR))
    for number in range(3):
        operation = context.operations.request(
            "delete",
            replace(plan, tenant=f"other-{number}"),
            requester=SYSTEM,
            channel="",
            request_key=str(number),
            hours=1,
            approved=True,
        )
        claimed = claims.claim(context.operations)
        assert claimed
        progress.finish(context.operations, claimed, "failed", outcome=f"no room {number}")
        assert claimed.id == operation.id
    found = gather(context, bench.clock() - DAY)
    tenants = ("other-0", "other-1", "other-2")
    assert found.failed_maintenance == (FailedMaintenance("delete", 3, tenants, "no room 2"),)
    assert (found.failed, found.ended, found.problems) == ((), {}, 1)
    opened(bench, "other-1", "errand")
    assert gather(context, bench.clock() - DAY).problems == 1, "its incident is not counted again"


def test_an_incident_is_listed_once_and_its_end_is_counted(bench: Bench) -> None:
    sampled(bench, 2, {"client-x": [29, 29]}, [9, 9])
    bench.lxd.world.machines["client-x"].bytes = 29 * GIB
    opened(bench, "client-x", "cron", "disk")
    found = gather(bench.context, bench.clock() - DAY)
    assert [one.kind for one in found.open] == ["cron"], "the full disk has a line of its own"
    assert [one.kind for one in found.tenants[0].incidents] == ["cron", "disk"]
    assert found.problems == 2
    bench.clock.move(60)
    opened(bench, "client-x", "disk")
    found = gather(bench.context, bench.clock() - DAY)
    assert (found.open, found.recovered) == ((), 1)


def test_a_silent_server_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    other = SimulatedLxd()
    add_blueprint(other)
    bench = make_bench(tmp_path, others={"other": other})
    bench.done("new client-x --host local")
    other.fail_next("full_instances", LxdUnavailable("The server `other` does not answer."))
    found = gather(bench.context, bench.clock() - DAY)
    assert found.silent == {"other": "The server `other` does not answer."}
    assert [one.name for one in found.tenants] == ["client-x"]
    assert not found.well


def test_a_failing_job_is_reported_except_for_a_silent_server_or_the_digest_itself(bench: Bench) -> None:
    jobs = bench.context.jobs
    jobs.pause("health", OPERATOR.id)
    for name, outcome in (("snapshots", "No answer."), ("purge", "No room."), ("digest", "Slack does not answer.")):
        jobs.begin(name)
        jobs.end(name, outcome)
    jobs.begin("digest")
    bench.lxd.fail_next("full_instances", LxdUnavailable("No answer."))
    found = gather(bench.context, bench.clock() - DAY)
    assert [one.name for one in found.jobs] == ["health", "purge"]
    assert found.problems == 3
    jobs.end("digest", "Slack does not answer.")
    found = gather(bench.context, bench.clock() - DAY)
    assert [one.name for one in found.jobs] == ["digest", "health", "purge", "snapshots"]
    assert not found.well


def test_the_head_of_the_audit_log_is_the_verified_one(bench: Bench) -> None:
    rows, head = gather(bench.context, bench.clock() - DAY).head
    verdict = audit.verify(bench.context.database)
    assert (rows, head) == (verdict.rows, verdict.head)


def test_a_thousand_tenants_cost_one_request_per_server(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, **ROOM_FOR_MANY)
    bench.lxd.clock = bench.clock
    names = [f"client-{number}" for number in range(1000)]
    for name in names:
        config = as_labels(
            role="tenant", tenant=name, domain=f"{name}.example.com", plan="small", state="live", created=1
        )
        bench.lxd.create(name, "base", config=config, devices={})
        for number in range(10):
            bench.lxd.snapshot(name, f"s-{number}")
    sampled(bench, 10, {name: list(range(10)) for name in names}, list(range(10)))
    bench.lxd.calls.clear()
    found = gather(bench.context, bench.clock() - DAY)
    assert len(found.tenants) == 1000
    assert dict(bench.lxd.calls) == {"full_instances": 1}
