"""Deliveries, requests and presses that come twice, or at the same time, take effect once."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bot.engine.runner import Runner
from bot.model.plan import Plan
from bot.store import audit
from bot.store.inbox import Inbox
from bot.store.operation import Operation
from bot.store.operations import TenantBusy
from tests.support.bot import ASKER, LEAD, Desk, containers, events, make_bench, make_desk, until
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(make_bench(tmp_path))


def at_once(number: int, do: Callable[[int], Any]) -> list[Any]:
    """Do something in that many threads that begin together."""
    ready = threading.Barrier(number)

    def begin(index: int) -> Any:
        ready.wait()
        return do(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(begin, range(number)))


def test_a_command_delivered_many_times_is_done_once(desk: Desk) -> None:
    payload = {"user": ASKER.id, "team": "T0OURS", "channel": "C0OPS", "text": "new client-x", "response_url": ""}
    fresh = at_once(10, lambda _: desk.inbox.put("command", "trigger-1", payload))
    desk.inbox.stop()
    assert Counter(fresh) == {True: 1, False: 9}
    assert [one.tenant for one in desk.bench.context.operations.select("1 = 1")] == ["client-x"]
    assert desk.slack.to(ASKER.id) == []


def test_a_click_delivered_many_times_decides_once(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    payload = {"user": LEAD.id, "team": "T0OURS", "channel": "C0OPS", "action_id": "approve", "trigger_id": "1.2"}
    payload["value"] = operation.mark
    at_once(10, lambda _: desk.inbox.put("action", "U0OPSLEAD:approve:1.5", payload))
    desk.inbox.stop()
    assert events(desk.bench, operation) == ["operation.requested", "operation.approved"]
    assert desk.slack.to(LEAD.id) == [], "nobody gets a message about repeats of one click"


def test_a_command_whose_delivery_a_crash_left_open_is_not_done_twice(desk: Desk) -> None:
    payload = {"user": ASKER.id, "team": "T0OURS", "channel": "C0OPS", "text": "new client-x", "response_url": ""}
    desk.inbox.put("command", "trigger-1", payload)
    desk.inbox.stop()
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE inbox SET done = NULL, payload = ?", (json.dumps(payload),))
    again = Inbox(desk.bench.context.database, desk.invocations.handle)
    again.recover()
    again.stop()
    assert len(desk.bench.context.operations.select("1 = 1")) == 1
    assert desk.slack.to(ASKER.id) == [], "the person is not told that their own request is in the way"


def test_an_unprocessed_delivery_is_processed_at_the_next_start(desk: Desk) -> None:
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute(
            "INSERT INTO inbox (key, kind, payload, received) VALUES ('k', 'command', ?, ?)",
            (f'{{"user": "{ASKER.id}", "team": "T0OURS", "channel": "C0OPS", "text": "new client-x"}}', time.time()),
        )
    desk.inbox.recover()
    desk.inbox.stop()
    assert desk.last().tenant == "client-x"
    desk.inbox.recover()  # The delivery is closed now: nothing is submitted to the stopped pool.


def test_simultaneous_requests_for_one_tenant_become_one_operation(desk: Desk) -> None:
    plan = desk.bench.answer("new client-x")

    def request(number: int) -> str:
        try:
            desk.bench.context.operations.request(
                "new", plan, requester=f"U0PERSON{number}", channel="C0OPS", request_key=str(number), hours=24
            )
        except TenantBusy as busy:
            return str(busy)
        return ""

    refused = [text for text in at_once(8, request) if text]
    (operation,) = desk.bench.context.operations.select("1 = 1")
    assert len(refused) == 7
    assert set(refused) == {
        f"`client-x` is locked by request #1 (new) by <@{operation.requester}>, which waits for approval. "
        f"<@{operation.requester}>, or whoever may approve it, can cancel it: `/mautic cancel 1`"
    }


def test_retry_and_undo_at_once_have_one_winner(desk: Desk) -> None:
    bench = desk.bench
    bench.lxd.fail_next("start", OSError("broken"))
    bench.lxd.fail_next("delete", OSError("broken"))
    operation = bench.done("new client-x")
    assert operation.state == "needs_attention"
    at_once(8, lambda n: desk.click("retry" if n % 2 else "undo", operation.id))
    bench.finish()
    seen = Counter(events(bench, operation))
    assert seen["operation.retried"] + seen["operation.undo_asked"] == 1
    taken_back = seen["operation.undone"]
    assert bench.context.operations.get(operation.id).state == ("cancelled" if taken_back else "succeeded")
    assert containers(bench) == (set() if taken_back else {"client-x"})


def test_undo_pressed_on_an_old_card_removes_no_live_tenant(desk: Desk) -> None:
    operation = desk.bench.done("new client-x")
    desk.click("undo", operation.id)
    desk.bench.finish()
    assert containers(desk.bench) == {"client-x"}
    assert "is already done (approved by <@U0OPSLEAD>), so there is nothing to roll back" in desk.slack.to(LEAD.id)[-1]


def test_twenty_tenants_requested_at_once_are_each_created_once(desk: Desk) -> None:
    bench = desk.bench
    bench.lxd.latency = {"copy": 0.02, "start": 0.01}
    runner = Runner(bench.context, workers=4)
    said_too_soon: list[str] = []

    def changed() -> None:
        runner.wake()
        for one in bench.context.operations.select("state = 'succeeded'"):
            if not bench.context.edge.probe(f"{one.tenant}.mautic.localhost").login:
                said_too_soon.append(one.tenant)

    bench.context.operations.changed = changed
    runner.start()
    at_once(20, lambda number: desk.command(f"new client-{number}"))
    waiting = bench.context.operations.select("state = 'awaiting_approval'")
    at_once(20, lambda number: desk.click("approve", waiting[number].id))
    until(lambda: not bench.context.operations.select("state IN ('queued', 'running')"))
    runner.stop()
    everything = bench.context.operations.select("1 = 1")
    assert Counter(one.state for one in everything) == {"succeeded": 20}
    assert containers(bench) == {f"client-{number}" for number in range(20)}
    for operation in everything:
        seen = Counter(events(bench, operation))
        assert (seen["operation.started"], seen["operation.succeeded"]) == (1, 1)
        assert (seen["step.started"], seen["step.finished"]) == (5, 5)
    assert said_too_soon == []
    assert not audit.verify(bench.context.database).broken


def test_a_domain_that_two_tenants_request_at_once_goes_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(tmp_path)
    asked = [bench.approve(bench.ask(f"new client-{name} --domain m.client.com")) for name in "xy"]
    both_planned = threading.Barrier(2, timeout=30)
    real = bench.runner._plan

    def plan(operation: Operation) -> Plan:
        made = real(operation)
        both_planned.wait()
        return made

    monkeypatch.setattr(bench.runner, "_plan", plan)
    at_once(2, lambda _: bench.runner.run_one())
    ended = [bench.context.operations.get(one.id) for one in asked]
    assert {one.state for one in ended} == {"succeeded", "failed"}
    (loser,) = (one for one in ended if one.state == "failed")
    assert re.match(r"The domain `m\.client\.com` already belongs to `client-[xy]`", loser.outcome)
    assert len(bench.context.fleet.tenants()) == 1


def test_a_host_gets_a_missing_blueprint_once_for_all_operations_that_need_it(tmp_path: Path) -> None:
    solo = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": solo})
    asked = [bench.approve(bench.ask(f"new client-{name} --host solo")) for name in "xy"]
    solo.latency = {"receive": 0.1}
    at_once(2, lambda _: bench.runner.run_one())
    assert [bench.context.operations.get(one.id).state for one in asked] == ["succeeded", "succeeded"]
    assert solo.calls["receive"] == 1
