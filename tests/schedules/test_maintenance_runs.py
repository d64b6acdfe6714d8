"""Maintenance has numbers of its own, and each of its runs is one row in the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bot.engine.maintenance import AT_ONCE, failing
from bot.engine.registry import call
from bot.lxd.protocol import LxdError
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.store import audit, recovery
from bot.store.maintenance_runs import QUIET
from bot.store.migrations import MAINTENANCE
from schedules.id_floor import id_floor
from schedules.snapshots import snapshots
from tests.support.bot import LEAD, OPERATOR, Bench, events, make_bench, make_desk

COUNT = AT_ONCE + 5


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with more tenants than one run asks for, none of which has a snapshot."""
    made = make_bench(tmp_path)
    made.done("new client-00")
    for number in range(1, COUNT):
        name = f"client-{number:02}"
        config = as_labels(role="tenant", tenant=name, domain=f"{name}.mautic.localhost", state="live", operation=0)
        made.lxd.create(name, "base", config=config, devices={})
        made.lxd.start(name)
    return made


def rows(bench: Bench, since: int = 0) -> list[dict[str, Any]]:
    found = bench.context.database.read("SELECT * FROM audit WHERE seq > ? ORDER BY seq", since)
    return [dict(row) | {"detail": json.loads(row["detail"])} for row in found]


def look(bench: Bench, times: int = 1) -> None:
    for _ in range(times):
        snapshots(bench.context)
        bench.finish()
        bench.clock.move(60)


def test_a_run_over_many_tenants_is_one_row_and_one_more_for_each_failure(bench: Bench) -> None:
    def call(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "snapshot" and arguments[0] == "client-07":
            raise LxdError("The pool has an error.")

    bench.lxd.on_call = call
    before = rows(bench)[-1]["seq"]
    look(bench, 2)
    assert [row["event"] for row in rows(bench, before)] == ["operation.failed"]
    assert rows(bench, before)[0]["tenant"] == "client-07"
    bench.clock.move(QUIET)
    look(bench)
    told = [row for row in rows(bench, before) if row["event"] != "operation.failed"]
    assert [row["event"] for row in told] == ["maintenance.run"]
    first = MAINTENANCE + 1
    assert told[0]["detail"] == {
        "job": "snapshots",
        "operations": [first, first + COUNT - 1],
        "snapshot": {"failed": 1, "succeeded": COUNT - 1},
    }
    assert not audit.verify(bench.context.database).broken


def test_a_run_that_a_crash_interrupted_is_summed_up_once(bench: Bench, tmp_path: Path) -> None:
    before = rows(bench)[-1]["seq"]
    look(bench, 2)
    bench.context.database.close()
    again = make_bench(tmp_path, bench.lxd)
    again.clock.move(bench.clock() - again.clock() + 2 * QUIET)
    for _ in range(3):
        snapshots(again.context)
        again.clock.move(60)
    assert [row["event"] for row in rows(again, before)].count("maintenance.run") == 1


def test_maintenance_uses_none_of_the_numbers_for_people(bench: Bench) -> None:
    look(bench)
    asked = bench.ask("stop client-01", OPERATOR)
    assert asked.id == 2
    maintenance = bench.context.operations.select("requester = 'system'")
    assert {one.id > MAINTENANCE for one in maintenance} == {True}
    assert len({one.id for one in maintenance}) == AT_ONCE
    id_floor(bench.context)
    assert bench.ask("stop client-02", OPERATOR).id == 3


def test_maintenance_that_a_person_retries_is_audited_step_by_step(bench: Bench) -> None:
    def call(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "snapshot":
            raise LxdError("The pool has an error.")

    bench.lxd.on_call = call
    look(bench)
    failed = bench.context.operations.select("state = 'failed'")[0]
    bench.lxd.on_call = None
    recovery.retry(bench.context.operations, failed, LEAD.id)
    bench.finish()
    assert events(bench, failed) == [
        "operation.failed",
        "operation.retried",
        "operation.started",
        "step.started",
        "step.finished",
        "operation.succeeded",
    ]


def test_a_later_success_of_a_person_ends_a_failure_despite_its_lower_number(bench: Bench) -> None:
    def call(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "snapshot":
            raise LxdError("The pool has an error.")

    bench.lxd.on_call = call
    for _ in range(2):
        look(bench)
        bench.clock.move(1000)
    assert "client-00" in {one.tenant for one in failing(bench.context)}
    bench.lxd.on_call = None
    done = bench.done("snapshot client-00", OPERATOR)
    assert done.id < MAINTENANCE
    assert "client-00" not in {one.tenant for one in failing(bench.context)}


def test_history_is_ordered_by_time_and_not_by_numbers(bench: Bench) -> None:
    look(bench)
    bench.done("snapshot client-00", OPERATOR)
    desk = make_desk(bench)
    desk.command("history --all", OPERATOR)
    told = str([one for one in desk.slack.said if one.get("user") == OPERATOR.id][-1]["blocks"])
    assert told.index("*#2*") < told.index("_scheduled_")


def test_maintenance_leaves_alone_what_a_later_request_has_made(tmp_path: Path) -> None:
    """The two kinds of numbers cannot be compared, so maintenance records the last request's number by then."""
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.done("delete client-x", OPERATOR)
    command = bench.context.registry.command("purge")
    plan = call(command, bench.context, {"tenant": "client-x", "container": "client-x--archived"})
    bench.context.operations.request(
        "purge", plan, requester="system", channel="", request_key="k", hours=1, approved=True
    )
    # While it waits, the tenant comes back and is archived again.
    bench.lxd.update("client-x--archived", {"user.mautic-ops.operation": "3"})
    bench.finish()
    (purge,) = bench.context.operations.select("command = 'purge'")
    assert purge.state == "failed"
    assert "is no longer what was approved: request #3 came later" in purge.outcome
    with pytest.raises(Refused):
        bench.context.operations.get(99)
