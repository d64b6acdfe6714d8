"""Guards on batches: checked for the whole batch when it is requested, and for each child at its turn."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bot.engine.runner import Runner
from bot.lxd.protocol import LxdError
from bot.model.labels import as_labels
from bot.model.plan import NotNow
from bot.store import claims, progress, recovery
from bot.store.claims import Hold
from bot.store.freezes import Freezes
from bot.store.operation import Operation
from bot.store.operations import MAINTENANCE_ENDS
from tests.support.bot import (
    ASKER,
    LEAD,
    LEAD_2,
    OPERATOR,
    Bench,
    Desk,
    add_blueprint,
    events,
    make_bench,
    make_desk,
    notes,
)
from tests.support.simulated_lxd import SimulatedLxd

NAMES = tuple(f"client-{letter}" for letter in "abcd")
GIB = 1 << 30


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Four tenants."""
    bench = make_bench(tmp_path)
    for name in NAMES:
        assert bench.done(f"new {name}").state == "succeeded"
    return make_desk(bench)


def again(bench: Bench, operation: Operation) -> Operation:
    return bench.context.operations.get(operation.id)


def child(bench: Bench, batch: Operation, tenant: str) -> Operation:
    (found,) = bench.context.operations.select("parent = ? AND tenant = ?", batch.id, tenant)
    return found


def states(bench: Bench, batch: Operation) -> dict[str, str]:
    return {one.tenant: one.state for one in bench.context.operations.select("parent = ?", batch.id)}


def shown(desk: Desk, operation: Operation) -> str:
    return "\n".join(str(block) for block in desk.announcer.card(again(desk.bench, operation)).blocks)


def asked(desk: Desk) -> list[Operation]:
    return desk.bench.context.operations.select("command = 'snapshot'")


def approved(desk: Desk, text: str = "snapshot --all") -> Operation:
    return desk.bench.approve(desk.bench.ask(text, OPERATOR))


def failing(desk: Desk, batch: Operation) -> Operation:
    """Run a batch in which the child of client-b fails, and return that child."""

    def call(called: str, arguments: tuple[Any, ...]) -> None:
        if called == "snapshot" and arguments[0] == "client-b":
            raise LxdError("The pool has an error.")

    desk.bench.lxd.on_call = call
    desk.bench.finish()
    desk.bench.lxd.on_call = None
    failed = child(desk.bench, batch, "client-b")
    assert failed.state == "failed"
    return failed


# -- asking and approving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["snapshot --all", "snapshot client-a,client-b", "restart --host local"])
def test_a_batch_on_a_frozen_fleet_is_refused_and_says_how_to_unfreeze(desk: Desk, text: str) -> None:
    desk.command("freeze all because of the sale", LEAD)
    before = desk.bench.context.operations.select("1")
    desk.command(text, OPERATOR)
    said = desk.slack.to(OPERATOR.id)[-1]
    assert (
        "All tenants are frozen by <@U0OPSLEAD> because of the sale. <@U0OPSLEAD> or an approver can end the freeze: "
        "`/mautic unfreeze all`" in said
    )
    assert desk.bench.context.operations.select("1") == before


def test_a_frozen_tenant_is_left_out_of_a_selection_but_refused_when_named(desk: Desk) -> None:
    desk.command("freeze client-b because of the sale", LEAD)
    desk.command("snapshot client-a,client-b", OPERATOR)
    assert "`client-b` is frozen by <@U0OPSLEAD> because of the sale" in desk.slack.to(OPERATOR.id)[-1]
    assert asked(desk) == []
    desk.command("snapshot --all", OPERATOR)
    batch = desk.last()
    left = "client-b: frozen (who froze, or an approver, can end that: /mautic unfreeze client-b)"
    assert batch.plan["remarks"]["Left out"] == left
    desk.command("unfreeze client-b", LEAD)
    desk.click("approve", batch.id, LEAD_2)
    desk.bench.finish()
    assert again(desk.bench, batch).state == "succeeded", "the list is the one that was approved"
    assert states(desk.bench, batch).keys() == set(NAMES) - {"client-b"}


def test_a_selection_of_only_frozen_tenants_is_refused(desk: Desk) -> None:
    desk.bench.lxd.update("client-b", as_labels(plan="medium"))
    desk.command("freeze client-b because of the sale", LEAD)
    desk.command("snapshot --size medium", OPERATOR)
    said = desk.slack.to(OPERATOR.id)[-1]
    assert (
        "None of the selected tenants can be included. client-b: frozen (who froze, or an approver, can end that: "
        "/mautic unfreeze client-b)" in said
    )
    assert asked(desk) == []


def test_a_freeze_of_all_blocks_approval_and_makes_approved_batches_wait(desk: Desk) -> None:
    bench = desk.bench
    batch = bench.ask("snapshot --all", OPERATOR)
    other = approved(desk)
    desk.command("freeze all because of the sale", LEAD_2)
    with pytest.raises(NotNow, match="still waits for approval"):
        bench.context.approvals.decide(batch.id, LEAD, "approve", via="test")
    bench.finish()
    assert [again(bench, one).state for one in (batch, other)] == ["awaiting_approval", "queued"]
    assert states(bench, other) == {}
    assert "The request can't be approved until the freeze ends" in shown(desk, batch)
    assert "approved, waiting" in shown(desk, other)
    assert "The operation starts when the freeze ends" in shown(desk, other)
    assert any("is waiting: All tenants are frozen" in note for note in notes(bench, other))
    desk.command("unfreeze all", LEAD)
    desk.click("approve", batch.id)
    bench.finish()
    assert [again(bench, one).state for one in (batch, other)] == ["succeeded", "succeeded"]


def test_planning_a_batch_with_all_guards_asks_the_server_once(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    for name in NAMES[:2]:
        assert bench.done(f"new {name}").state == "succeeded"
    desk = make_desk(bench)
    for text in ("snapshot --all", "snapshot client-a,client-b", "restart --all"):
        bench.lxd.calls.clear()
        desk.command(text, OPERATOR)
        assert desk.last().children == 2
        assert bench.lxd.calls["instances"] == 1, text
        desk.command(f"cancel {desk.last().id}", OPERATOR)


# -- running -------------------------------------------------------------------------------------------------------


def test_a_child_that_is_frozen_at_its_turn_waits_and_the_others_continue(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    desk.command("freeze client-a because of the sale", LEAD)
    for _ in range(3):
        bench.finish()
    assert states(bench, batch) == {**dict.fromkeys(NAMES, "succeeded"), "client-a": "waiting"}
    assert again(bench, batch).state == "running"
    assert bench.lxd.snapshots("client-a") == []
    waits = child(bench, batch, "client-a")
    assert (waits.held_by, events(bench, waits)) == ("freeze", ["operation.requested", "operation.held"])
    assert "3 of 4 done*, 1 waiting" in shown(desk, batch)
    assert "*Frozen:* client-a; this tenant waits until the freeze ends, the others continue" in shown(desk, batch)
    desk.command("unfreeze client-a", LEAD)
    assert "Frozen" not in shown(desk, batch)
    bench.finish()
    assert (again(bench, batch).state, states(bench, batch)["client-a"]) == ("succeeded", "succeeded")
    assert child(bench, batch, "client-a").held_by == ""


def test_a_frozen_child_does_not_count_as_running(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_BATCHES__AT_ONCE="1", MAUTIC_OPS_BATCHES__AT_ONCE_HOST="1")
    for name in NAMES:
        assert bench.done(f"new {name}").state == "succeeded"
    desk = make_desk(bench)
    batch = approved(desk)
    for name in NAMES[:2]:
        desk.command(f"freeze {name} because of the sale", LEAD)
    bench.finish()
    assert Counter(states(bench, batch).values()) == {"succeeded": 2, "waiting": 2}
    assert "*Frozen:* client-a, client-b; these tenants wait until the freeze ends" in shown(desk, batch)


def test_a_freeze_of_all_stops_the_remaining_children_until_it_ends(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    for _ in range(2):
        assert bench.runner.run_one()
    desk.announce()
    before = again(bench, batch).announced
    desk.command("freeze all 2h because of the sale", LEAD)
    assert again(bench, batch).revision > before, "the card shows the freeze before the next child's turn comes"
    bench.finish()
    assert Counter(states(bench, batch).values()) == {"succeeded": 1, "waiting": 3}
    assert "All tenants are frozen* by <@U0OPSLEAD>" in shown(desk, batch)
    assert "Tenants that have not started wait until the freeze ends" in shown(desk, batch)
    desk.announce()
    before = again(bench, batch).announced
    bench.clock.move(7201)
    assert Freezes(bench.context.operations).expire() == 1
    assert again(bench, batch).revision > before
    assert "frozen" not in shown(desk, batch)
    bench.finish()
    assert again(bench, batch).state == "succeeded"


def test_children_that_wait_still_wait_after_a_crash(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    desk.command("freeze client-a because of the sale", LEAD)

    def die(moment: str) -> None:
        if moment == "started 0":
            raise KeyboardInterrupt

    bench.runner.fault = die
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    recovery.recover(bench.context.operations)
    after = Runner(bench.context, 4)
    while after.run_one():
        pass
    assert states(bench, batch) == {**dict.fromkeys(NAMES, "succeeded"), "client-a": "waiting"}
    desk.command("unfreeze client-a", LEAD)
    while after.run_one():
        pass
    assert again(bench, batch).state == "succeeded"


def test_a_batch_can_be_stopped_while_a_child_is_frozen(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    desk.command("freeze client-a because of the sale", LEAD)
    bench.finish()
    desk.click("batch_stop", batch.id, LEAD)
    bench.finish()
    assert again(bench, batch).state == "cancelled"
    assert states(bench, batch)["client-a"] == "cancelled"
    assert "3 of 4 done, 1 not started" in notes(bench, batch)[-1]


def test_a_frozen_child_cannot_be_retried_and_a_waiting_retry_stops_with_its_batch(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    failed = failing(desk, batch)
    desk.announce()
    desk.command(f"freeze {failed.tenant} because of the sale", LEAD)
    desk.click("retry", failed.id, OPERATOR)
    assert f"`{failed.tenant}` is frozen" in desk.slack.to(OPERATOR.id)[-1]
    assert again(bench, failed).state == "failed"
    desk.command(f"unfreeze {failed.tenant}", LEAD)
    desk.click("retry", failed.id, OPERATOR)
    desk.command(f"freeze {failed.tenant} because of the sale", LEAD)
    bench.finish()
    waits = again(bench, failed)
    assert (waits.state, waits.held_by, again(bench, batch).state) == ("queued", "freeze", "running")
    assert "3 of 4 done*, 1 waiting" in shown(desk, batch)
    desk.announce()
    assert "waiting until the freeze ends" in shown(desk, waits)
    desk.click("batch_stop", batch.id, LEAD)
    bench.finish()
    desk.announce()
    assert [again(bench, one).state for one in (failed, batch)] == ["cancelled", "cancelled"]
    lines = [one["text"] for one in desk.slack.said if f"`{failed.tenant}` —" in one["text"]]
    assert "not started" in lines[-1]


def test_a_frozen_child_does_not_fail_because_of_a_request_on_its_tenant(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    assert bench.runner.run_one()
    request = bench.ask("stop client-d", OPERATOR)
    desk.command("freeze client-d because of the sale", LEAD)
    for _ in range(2):
        bench.finish()
    assert states(bench, batch)["client-d"] == "waiting"
    desk.command("unfreeze client-d", LEAD)
    bench.context.approvals.cancel(request.id, OPERATOR)
    bench.finish()
    assert again(bench, batch).state == "succeeded"


def test_a_retried_child_does_not_keep_the_reason_for_which_it_waited(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    assert bench.runner.run_one()
    desk.command("freeze client-d because of the sale", LEAD)
    bench.finish()
    request = bench.ask("stop client-d", OPERATOR)
    desk.command("unfreeze client-d", LEAD)
    bench.finish()
    assert (states(bench, batch)["client-d"], again(bench, batch).state) == ("failed", "failed")
    assert f"locked by request #{request.id}" in child(bench, batch, "client-d").outcome
    bench.context.approvals.cancel(request.id, OPERATOR)
    desk.click("retry", batch.id, OPERATOR)
    assert child(bench, batch, "client-d").held_by == ""
    bench.finish()
    assert again(bench, batch).state == "succeeded"


def test_a_child_waits_while_a_mautic_command_runs_in_its_tenant(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    with bench.context.operations.at_work.take("client-b", "<@U0OPERATOR> runs `cache:clear`"):
        bench.finish()
        assert states(bench, batch) == {**dict.fromkeys(NAMES, "succeeded"), "client-b": "waiting"}
        assert "*Waiting:* client-b. " in shown(desk, batch)
    bench.finish()
    assert again(bench, batch).state == "succeeded"


def test_the_card_names_an_overloaded_host(tmp_path: Path) -> None:
    lxd = SimulatedLxd(memory=64 * GIB)
    add_blueprint(lxd)
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    assert bench.done("new client-x").state == "succeeded"
    desk = make_desk(bench)
    batch = bench.approve(bench.ask("new shop-a,shop-b", ASKER))
    assert bench.runner.run_one()
    lxd.memory_of = lambda name: 61 * GIB
    bench.finish()
    assert states(bench, batch) == {"shop-a": "waiting", "shop-b": "waiting"}
    assert "*Waiting:* shop-a, shop-b. `local` is overloaded: " in shown(desk, batch)
    lxd.memory_of = lambda name: GIB
    bench.finish()
    assert again(bench, batch).state == "succeeded"


# -- who is next ---------------------------------------------------------------------------------------------------


def test_a_child_whose_tenant_is_taken_during_the_claim_is_skipped(desk: Desk) -> None:
    bench = desk.bench
    batch = approved(desk)
    assert bench.runner.run_one()
    taken = []

    def may(operation: Operation) -> bool:
        if operation.tenant == "client-a":
            taken.append(bench.ask("stop client-a", OPERATOR))
        return True

    claimed = claims.claim(bench.context.operations, may=may)
    assert claimed
    assert (len(taken), claimed.tenant) == (1, "client-b")
    assert states(bench, batch)["client-a"] == "waiting"


def test_a_waiting_operation_is_skipped_while_a_snapshot_has_its_tenant(desk: Desk) -> None:
    """While an operation waits for a freeze, the bot may snapshot its tenant; the index decides which is first."""
    bench = desk.bench
    operations = bench.context.operations
    first, second = (bench.approve(bench.ask(f"stop {name}", OPERATOR)) for name in NAMES[:2])
    assert claims.claim(operations, lambda one: Hold("freeze", "It is frozen.")) is None
    plan = bench.answer("snapshot client-a", OPERATOR)
    taken = operations.request(
        "snapshot", plan, requester="system", channel="", request_key="x", hours=1, approved=True
    )
    claimed = claims.claim(operations, lambda one: Hold("busy", "It is busy.") if one.id == first.id else None)
    assert claimed
    assert claimed.id == second.id
    assert again(bench, first).held_by == "freeze"
    assert again(bench, taken).state == "queued"


def test_a_person_does_not_wait_for_a_child_that_waits_itself(desk: Desk) -> None:
    bench = desk.bench
    failed = failing(desk, approved(desk))
    desk.click("retry", failed.id, OPERATOR)
    assert claims.claim(bench.context.operations, lambda one: Hold("memory", "No room.")) is None
    assert again(bench, failed).held_by == "memory"
    began = time.monotonic()
    desk.command("stop client-b", OPERATOR)
    assert time.monotonic() - began < MAINTENANCE_ENDS / 2
    assert f"or whoever may approve it, can cancel it: `/mautic cancel {failed.id}`" in desk.slack.to(OPERATOR.id)[-1]


def test_a_started_operation_that_was_put_back_continues_during_a_freeze(desk: Desk) -> None:
    bench = desk.bench
    operation = approved(desk, "restart client-a")
    claimed = claims.claim(bench.context.operations)
    assert claimed
    progress.step_started(bench.context.operations, claimed, 0)
    claims.put_back(bench.context.operations, claimed, "The host does not answer.")
    desk.command("freeze all because of the sale", LEAD)
    bench.finish()
    ended = again(bench, operation)
    assert (ended.state, ended.held_by) == ("succeeded", "")
    assert "operation.held" not in events(bench, ended)


# -- reading -------------------------------------------------------------------------------------------------------


def test_tags_can_be_read_but_not_changed_while_frozen(desk: Desk) -> None:
    assert desk.bench.done("tag client-a vip", OPERATOR).state == "succeeded"
    desk.command("freeze all because of the sale", LEAD)
    desk.command("tag client-a", OPERATOR)
    assert "`client-a` has tags `vip`" in desk.slack.to(OPERATOR.id)[-1]
    desk.command("tag client-a eu", OPERATOR)
    assert "All tenants are frozen" in desk.slack.to(OPERATOR.id)[-1]
    assert len(desk.bench.context.operations.select("command = 'tag'")) == 1
