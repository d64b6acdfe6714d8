"""Buttons: permission is checked at the click, whatever roles the person had when the card was posted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.store import batches
from bot.store.operation import Operation
from tests.bot.test_failures import goes_away_in_its_second_step, prepared, run
from tests.support.bot import LEAD, OPERATOR, Bench, Desk, make_bench, make_desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    bench = make_bench(tmp_path)
    for name in ("client-a", "client-b", "client-c"):
        bench.done(f"new {name}")
    return make_desk(bench)


def is_no_operator_any_more(bench: Bench) -> None:
    bench.slack.groups["mautic-operators"] = []
    bench.context.people.forget()


def paused(desk: Desk) -> Operation:
    """A batch of snapshots that an approver has paused."""
    bench = desk.bench
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    bench.runner.run_one()
    desk.click("batch_pause", batch.id, LEAD)
    return batch


def test_a_requester_who_lost_the_role_cannot_resume_a_paused_batch(desk: Desk) -> None:
    batch = paused(desk)
    is_no_operator_any_more(desk.bench)
    desk.click("batch_go_on", batch.id, OPERATOR)
    standing = batches.standing(desk.bench.context.operations, batch.id)
    assert standing
    assert standing.paused_by == LEAD.id
    said = desk.slack.to(OPERATOR.id)[-1]
    assert "Only an approver can use this button: you can no longer request `snapshot`." in said


def test_a_requester_who_lost_the_role_may_still_stop_the_batch(desk: Desk) -> None:
    batch = paused(desk)
    is_no_operator_any_more(desk.bench)
    desk.click("batch_stop", batch.id, OPERATOR)
    standing = batches.standing(desk.bench.context.operations, batch.id)
    assert standing
    assert standing.stopped_by == OPERATOR.id


@pytest.mark.parametrize("button", ["undo", "retry", "give_up"])
def test_a_requester_who_lost_the_role_cannot_decide_about_a_failed_operation(tmp_path: Path, button: str) -> None:
    bench = prepared(tmp_path, "restore")
    desk = make_desk(bench)
    operation = run(bench, "restore")
    goes_away_in_its_second_step(bench, operation)
    bench.finish()
    bench.lxd.on_call = None
    is_no_operator_any_more(bench)
    desk.click(button, operation.mark, OPERATOR)
    assert desk.slack.to(OPERATOR.id)[-1].startswith(":warning: ")
    assert bench.context.operations.get(operation.id).state == "needs_attention"
