"""The schedule of snapshots over a simulated LXD: due ones are taken, surplus ones pruned, and none waits for long."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.engine import maintenance
from bot.engine.maintenance import AT_ONCE
from bot.engine.retention import spread
from bot.engine.snapshots import ours
from bot.fleet.inventory import FullInventory
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.labels import as_labels
from bot.store import recovery
from bot.store.operation import Operation
from schedules.snapshots import snapshots
from tests.support.bot import OPERATOR, Bench, make_bench
from tests.support.simulated_lxd import SimulatedLxd

HOUR, DAY = 3600, 86_400
POLICY = {f"MAUTIC_OPS_SNAPSHOTS__{tier}": str(count) for tier, count in (("HOURLY", 4), ("DAILY", 3), ("WEEKLY", 0))}


def add_tenant(lxd: SimulatedLxd, name: str) -> None:
    """Create a tenant directly, without the steps of `new`."""
    config = as_labels(role="tenant", tenant=name, domain=f"{name}.mautic.localhost", state="live", operation=0)
    lxd.create(name, "base", config=config, devices={})
    lxd.start(name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path, **POLICY, MAUTIC_OPS_SNAPSHOTS__MONTHLY="1")
    add_tenant(made.lxd, "client-x")
    return made


def tick(bench: Bench) -> list[Operation]:
    """Run the job once, and what it requested; return those operations."""
    last = max((one.id for one in bench.context.operations.select("1 = 1")), default=0)
    snapshots(bench.context)
    bench.finish()
    return bench.context.operations.select("id > ?", last)


def hours(bench: Bench, name: str) -> list[str]:
    """Return the day and hour of each of the tenant's snapshots; its hours begin at a minute of its own."""
    late = spread(name).total_seconds()
    taken = [datetime.strptime(one.name[2:17], "%Y%m%d-%H%M%S") for one in bench.lxd.snapshots(name)]
    return [f"{datetime.fromtimestamp(one.replace(tzinfo=UTC).timestamp() - late, UTC):%d %H}" for one in taken]


def test_the_name_of_a_scheduled_snapshot_is_short_enough_to_be_typed(bench: Bench) -> None:
    """The numbers of maintenance have ten digits all the same."""
    tick(bench)
    (taken,) = ours(bench.lxd.snapshots("client-x"))
    assert re.fullmatch(r"s-\d{8}-\d{6}-m1", taken.name)


def test_after_some_days_exactly_what_the_policy_says_is_kept(bench: Bench) -> None:
    add_tenant(bench.lxd, "client-y")
    bench.clock.at = datetime(2027, 1, 30, 20, 30, tzinfo=UTC).timestamp()
    away = range(30, 36)
    for hour in range(44):
        for _ in range(0 if hour in away else 3):
            tick(bench)
        bench.clock.move(HOUR)
    # From the 30th, 20:30, to the 1st, 15:30. February has one day so far, whose snapshot is the monthly one, too.
    for name in ("client-x", "client-y"):
        last = 15 if spread(name).total_seconds() <= HOUR / 2 else 14
        own = [f"01 {hour}" for hour in range(last - 3, last + 1)]
        assert hours(bench, name) == ["30 23", "31 23", *own], name
    operations = bench.context.operations.select("1 = 1")
    assert {one.state for one in operations} == {"succeeded"}
    assert {(one.requester, one.channel) for one in operations} == {("system", "")}
    for operation in operations[:3]:
        rows = bench.context.database.read("SELECT event FROM audit WHERE operation = ? ORDER BY seq", operation.id)
        assert rows == [], "one row sums up the whole run"
    told = bench.context.database.read("SELECT detail FROM audit WHERE event = 'maintenance.run'")
    assert sum(json.loads(row["detail"]).get("snapshot", {}).get("succeeded", 0) for row in told) > 2


def test_the_schedule_needs_one_request_per_server_however_many_tenants_there_are(bench: Bench) -> None:
    for number in range(30):
        add_tenant(bench.lxd, f"client-{number}")
    bench.lxd.calls.clear()
    snapshots(bench.context)
    # Where something is due there are small ones per host, too: an overloaded host is left alone.
    assert dict(bench.lxd.calls) == {"full_instances": 1, "members": 1, "resources": 1, "pool": 1}
    asked = bench.context.operations.select("state = 'queued'")
    assert len(asked) == AT_ONCE
    snapshots(bench.context)
    assert len(bench.context.operations.select("state = 'queued'")) == AT_ONCE, "no more until those are done"
    bench.finish()
    assert len(tick(bench)) == 31 - AT_ONCE
    assert tick(bench) == []


def test_each_tenant_is_due_at_its_own_minute_of_the_hour(bench: Bench) -> None:
    for number in range(6):
        add_tenant(bench.lxd, f"client-{number}")
    bench.clock.move(HOUR - 1)
    tick(bench)
    bench.clock.move(1)
    seen: dict[str, int] = {}
    for minute in range(61):
        for one in tick(bench):
            if one.command == "snapshot":
                seen[one.tenant] = minute
        bench.clock.move(60)
    assert len(seen) == 7
    assert all(0 <= minute * 60 - spread(name).total_seconds() < 60 for name, minute in seen.items())


def test_in_a_fleet_that_is_too_big_for_one_run_every_tenant_gets_its_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run takes 5 of 8, and there are two runs an hour: all get snapshots, although all have something to prune."""
    monkeypatch.setattr(maintenance, "AT_ONCE", 5)
    for number in range(7):
        add_tenant(bench.lxd, f"client-{number}")
    for _ in range(9):
        bench.clock.move(HOUR)
        for _ in range(2):
            tick(bench)
    for name in ("client-x", *(f"client-{number}" for number in range(7))):
        assert ours(bench.lxd.snapshots(name))[-1].at >= bench.clock() - HOUR, name


def test_a_tenant_with_an_approved_operation_is_passed_over(bench: Bench) -> None:
    bench.context.operations.request(
        "delete",
        bench.answer("delete client-x", OPERATOR),
        requester=OPERATOR.id,
        channel="C0OPS",
        request_key="k",
        hours=1,
    )
    bench.approve(bench.context.operations.get(1))
    snapshots(bench.context)
    assert [one.command for one in bench.context.operations.select("1 = 1")] == ["delete"]


def test_a_request_that_awaits_approval_stops_prunes_but_no_snapshots(bench: Bench) -> None:
    tick(bench)
    request = bench.ask("stop client-x", OPERATOR)
    for _ in range(6):
        bench.clock.move(HOUR)
        assert [one.command for one in tick(bench)] == ["snapshot"], "and nothing that it may need is removed"
    bench.answer(f"cancel {request.id}", OPERATOR)
    assert [one.command for one in tick(bench)] == ["prune"]


def test_a_tenant_whose_snapshot_failed_is_left_alone_for_a_while(bench: Bench) -> None:
    bench.lxd.fail_next("snapshot", LxdError("LXD could not take it: the storage pool is full."))
    (failed,) = tick(bench)
    assert (failed.state, failed.outcome) == ("failed", "LXD could not take it: the storage pool is full.")
    bench.clock.move(600)
    assert tick(bench) == []
    bench.clock.move(301)
    assert [one.state for one in tick(bench)] == ["succeeded"]


def test_a_silent_server_delays_no_other_and_fails_the_job(bench: Bench) -> None:
    seen = bench.context.fleet.full_inventory()
    fleet = bench.context.fleet
    fleet.full_inventory = lambda: FullInventory(seen.tenants, {"far": "`far` does not answer."})  # type: ignore[method-assign]
    with pytest.raises(LxdUnavailable, match="`far` does not answer"):
        snapshots(bench.context)
    assert len(bench.context.operations.select("state = 'queued'")) == 1


def test_a_scheduled_snapshot_is_not_posted(bench: Bench) -> None:
    tick(bench)
    assert bench.context.database.read("SELECT * FROM notes") == []
    assert bench.context.operations.select("announced < revision") == []


def test_a_policy_of_zeros_takes_nothing_and_deletes_nothing(tmp_path: Path) -> None:
    nothing = {f"MAUTIC_OPS_SNAPSHOTS__{tier}": "0" for tier in ("HOURLY", "DAILY", "WEEKLY", "MONTHLY")}
    bench = make_bench(tmp_path, **nothing)
    add_tenant(bench.lxd, "client-x")
    bench.done("snapshot client-x", OPERATOR)
    bench.done("snapshot client-x", OPERATOR)
    assert tick(bench) == []
    assert len(bench.lxd.snapshots("client-x")) == 2


def test_the_next_snapshot_removes_the_labels_that_a_killed_one_left(bench: Bench) -> None:
    """With those labels, a container that somebody freezes later would be thawed."""
    left = as_labels(taken=int(bench.clock()), why="schedule", by="system")
    bench.lxd.update("client-x", left)
    tick(bench)
    assert not left.keys() & bench.lxd.instance("client-x").config.keys()
    bench.lxd.world.machines["client-x"].status = "Frozen"
    bench.clock.move(HOUR)
    tick(bench)
    assert bench.lxd.instance("client-x").status == "Frozen"


def test_a_scheduled_snapshot_that_was_taken_before_a_crash_is_not_taken_again(bench: Bench) -> None:
    class Killed(BaseException):
        pass

    def kill(moment: str) -> None:
        if moment == "ran 0":
            raise Killed

    snapshots(bench.context)
    bench.runner.fault = kill
    with pytest.raises(Killed):
        bench.runner.run_one()
    bench.runner.fault = lambda moment: None
    bench.clock.move(30)
    recovery.recover(bench.context.operations)
    bench.finish()
    assert len(bench.lxd.snapshots("client-x")) == 1
