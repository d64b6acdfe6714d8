"""`/mautic give-up`: who may give up an operation that needs attention, with which reason, and what remains."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bot.engine.maintenance import Maintenance, failing
from bot.engine.steps import remove
from bot.lxd.protocol import LxdError
from bot.model.actor import Actor
from bot.model.plan import Refused
from bot.store import audit, recovery
from bot.store.operation import Operation
from bot.store.recovery import MAX_ATTEMPTS
from schedules.health import health
from schedules.purge import purge
from schedules.undo import undo
from tests.support.bot import ASKER, CASES, LEAD, OPERATOR, Bench, live, make_bench, make_desk, notes
from tests.support.half_done import half_moved, starts
from tests.support.judge import mrkdwn
from tests.support.simulated_lxd import SimulatedLxd

BECAUSE = "give-up {} because the disk of solo is gone"


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def bench(tmp_path: Path, other: SimulatedLxd) -> Bench:
    made = make_bench(tmp_path, others={"solo": other})
    made.done("new client-x --host local")
    return made


def stuck(bench: Bench, other: SimulatedLxd) -> Operation:
    """Return a move that halted half way; afterwards containers can be started again."""
    operation = half_moved(bench, other)
    starts(True, bench.lxd, other)
    return operation


def said(message: Any) -> str:
    return "\n".join(mrkdwn(message.blocks))


def test_giving_up_ends_the_operation_and_records_who_and_why(bench: Bench, other: SimulatedLxd) -> None:
    operation = stuck(bench, other)
    with pytest.raises(Refused, match=f"`/mautic give-up {operation.id} because <reason>`"):
        bench.context.operations.refuse_if_busy("client-x")
    bench.clock.move(60)
    answer = said(bench.answer(BECAUSE.format(operation.id), OPERATOR))
    assert "the disk of solo is gone" in answer
    assert "`/mautic start client-x` starts the current container again" in answer
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, ended.reason, ended.ended_by) == ("given_up", "the disk of solo is gone", OPERATOR.id)
    assert f"Given up by <@{OPERATOR.id}>: the disk of solo is gone" in notes(bench, operation)[-1]
    last = audit.recent(bench.context.database, limit=1)[0]
    assert (last["event"], last["actor"]) == ("operation.given_up", OPERATOR.id)
    assert "the disk of solo is gone" in str(last["detail"])
    card = "\n".join(mrkdwn(make_desk(bench).announcer.card(ended).blocks))
    assert "— given up" in card
    assert f"*Given up by <@{OPERATOR.id}>:* the disk of solo is gone" in card


def test_the_leftover_candidate_is_deleted_once_the_tenant_runs_again(bench: Bench, other: SimulatedLxd) -> None:
    operation = stuck(bench, other)
    candidate = f"client-x--{operation.id}"
    bench.answer(BECAUSE.format(operation.id), OPERATOR)
    undo(bench.context)
    purge(bench.context)
    bench.finish()
    assert candidate in [one.name for one in other.instances()], (
        "it may be needed while the old container is half moved"
    )
    bench.clock.move(60)
    health(bench.context)
    (told,) = [one.text for one in bench.context.incidents.open() if one.kind == "move"]
    assert "`/mautic start client-x` brings the site online" in told
    assert bench.done("start client-x", OPERATOR).state == "succeeded"
    assert live(bench)
    purge(bench.context)
    bench.finish()
    assert candidate not in [one.name for one in other.instances()]
    assert bench.done("migrate client-x solo", OPERATOR).state == "succeeded"


@pytest.mark.parametrize(
    ("words", "actor", "why"),
    [
        ("", OPERATOR, "Add a reason"),
        (" because", OPERATOR, "Add a reason"),
        (" because …", OPERATOR, "Add a reason"),
        (" because I may not", ASKER, "Only approvers or operators can give up request"),
    ],
)
def test_giving_up_without_a_reason_or_permission_is_refused(
    bench: Bench, other: SimulatedLxd, words: str, actor: Actor, why: str
) -> None:
    operation = stuck(bench, other)
    with pytest.raises(Refused, match=why):
        bench.answer(f"give-up {operation.id}{words}", actor)
    assert bench.context.operations.get(operation.id).state == "needs_attention"


def test_only_an_operation_that_needs_attention_can_be_given_up(bench: Bench) -> None:
    for operation in (bench.ask("stop client-x", OPERATOR), bench.context.operations.get(1)):
        with pytest.raises(Refused, match="Only a request that needs action"):
            bench.answer(BECAUSE.format(operation.id), LEAD)


@pytest.mark.parametrize("first", ["retry", "undo", "give_up"])
def test_only_the_first_of_retry_undo_and_give_up_takes_effect(bench: Bench, other: SimulatedLxd, first: str) -> None:
    operation = stuck(bench, other)
    ways = {
        "retry": lambda: recovery.retry(bench.context.operations, operation, LEAD.id),
        "undo": lambda: recovery.undo(bench.context.operations, operation, LEAD.id),
        "give_up": lambda: recovery.give_up(bench.context.operations, operation, LEAD.id, "it is over"),
    }
    ways.pop(first)()
    for late in ways.values():
        with pytest.raises(Refused):
            late()


def test_a_move_whose_new_container_serves_can_only_be_retried(bench: Bench, other: SimulatedLxd) -> None:
    def fail(moment: str) -> None:
        if moment == "before 8":
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    operation = bench.done("migrate client-x solo", OPERATOR)
    assert operation.state == "needs_attention"
    with pytest.raises(Refused, match="Retry, on its card, finishes that"):
        bench.answer(BECAUSE.format(operation.id), OPERATOR)


def test_an_operation_is_not_given_up_if_that_cannot_be_recorded(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = stuck(bench, other)

    def record(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(audit, "record", record)
    with pytest.raises(Exception, match="disk I/O error"):
        bench.answer(BECAUSE.format(operation.id), OPERATOR)
    assert bench.context.operations.get(operation.id).state == "needs_attention"


def test_the_button_asks_for_the_reason_and_gives_up(bench: Bench, other: SimulatedLxd) -> None:
    operation = stuck(bench, other)
    desk = make_desk(bench)
    desk.click("give_up", operation.id, OPERATOR)
    (view,) = desk.slack.views
    assert "client-x" in str(view["blocks"])
    desk.submit(view["callback_id"], json.loads(view["private_metadata"]), OPERATOR, reason="because solo burned down")
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, ended.reason) == ("given_up", "solo burned down")


def test_maintenance_can_be_given_up_too(bench: Bench) -> None:
    Maintenance(bench.context).ask("snapshot", bench.answer("snapshot client-x", OPERATOR))
    with bench.context.database.transaction() as transaction:
        transaction.execute(
            "UPDATE operations SET state = 'running', attempts = ?, begun = 1 WHERE requester = 'system'",
            (MAX_ATTEMPTS,),
        )
    (cut,) = bench.context.operations.select("requester = 'system'")
    recovery.recover(bench.context.operations)
    (one,) = failing(bench.context)
    assert f"`/mautic give-up {cut.id} because …`" in one.text
    bench.answer(BECAUSE.format(cut.id), OPERATOR)
    assert failing(bench.context) == []
    assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"


@pytest.mark.parametrize("command", CASES)
def test_every_operation_that_was_interrupted_too_often_can_be_given_up(tmp_path: Path, command: str) -> None:
    """Afterwards its tenant can be started and deleted."""
    case = CASES[command]
    bench = make_bench(tmp_path, members=case.members)
    case.prepare(bench)
    operation = bench.approve(bench.ask(case.text, case.actor))

    def cut(moment: str) -> None:
        if moment == "ran 0":
            raise KeyboardInterrupt

    bench.runner.fault = cut
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.runner.fault = lambda moment: None
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET attempts = ? WHERE id = ?", (MAX_ATTEMPTS, operation.id))
    recovery.recover(bench.context.operations)
    assert bench.context.operations.get(operation.id).state == "needs_attention"
    bench.clock.move(60)
    bench.answer(BECAUSE.format(operation.id), LEAD)
    bench.context.operations.refuse_if_busy(operation.tenant)
    for schedule in (undo, purge, health):
        schedule(bench.context)
        bench.finish()
    if any(one.name == "client-x" and one.state == "moving" for one in bench.context.fleet.tenants()):
        assert bench.done("start client-x", OPERATOR).state == "succeeded"
        assert live(bench)
    if any(one.name == "client-x" for one in bench.context.fleet.tenants()):
        assert bench.done("delete client-x", OPERATOR).state == "succeeded"


def test_a_move_to_a_host_that_is_lost_for_good_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new container had served its page there, but it is gone: the source is all there is."""
    bench = make_bench(tmp_path, members=("node1", "node2"))
    bench.done("new client-x --host node1")

    def fault(moment: str) -> None:
        if moment == "before 8":
            raise LxdError("The host is on fire.")

    bench.runner.fault = fault
    operation = bench.done("migrate client-x node2")
    assert operation.state == "needs_attention"
    bench.runner.fault = lambda moment: None
    with pytest.raises(Refused, match="the new container already serves"):
        bench.answer(f"give-up {operation.id} because node2 burnt", LEAD)
    remove(bench.lxd, f"client-x--{operation.id}")
    bench.answer(f"give-up {operation.id} because node2 burnt", LEAD)
    assert bench.context.operations.get(operation.id).state == "given_up"
    assert bench.done("start client-x").state == "succeeded"
