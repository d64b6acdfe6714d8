"""`--at` has a latest moment: what could not begin near its time is cancelled, and not begun at another time of day."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.lxd.protocol import LxdError
from bot.model.plan import Refused
from bot.store import recovery
from bot.store.freezes import Freezes
from bot.store.operation import GRACE, SYSTEM, Operation
from schedules.expiry import expiry
from schedules.offers import offers
from schedules.snapshots import snapshots
from tests.support.bot import LEAD, LEAD_2, OPERATOR, Bench, add_releases, events, make_bench, make_desk, notes
from tests.support.judge import mrkdwn

HOUR = 3600.0
MOVE = "migrate client-x node2 --at 22:00"
ONE_WORKER = {"MAUTIC_OPS_BOT__WORKERS": "1"}
"""As many workers as the runner of a bench has."""


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with a tenant on the first of two hosts; it is Friday, 08:00."""
    made = make_bench(tmp_path, members=("node1", "node2"), **ONE_WORKER)
    for name in ("client-x", "client-y"):
        assert made.done(f"new {name} --host node1").state == "succeeded"
    return made


def restarted(bench: Bench, hours: float = 0.0) -> Bench:
    """Return the bot as it starts again, after a downtime."""
    at, lived = bench.clock.at, bench.clock.uptime
    bench.context.database.close()
    again = make_bench(bench.context.settings.state, bench.lxd, slack=bench.slack, **ONE_WORKER)
    again.clock.at, again.clock.uptime = at, lived
    again.clock.move(hours * HOUR)
    recovery.recover(again.context.operations)
    return again


def until(bench: Bench, asked: Operation, late: float = 0.0) -> float:
    """Return the seconds until so many after the time of an operation."""
    return asked.at + late - bench.clock()


def host(bench: Bench) -> str:
    return bench.context.fleet.tenant("client-x").host


def now(bench: Bench, asked: Operation) -> Operation:
    return bench.context.operations.get(asked.id)


def during(bench: Bench, text: str, work: Callable[[], object]) -> None:
    """Run another operation, and do something at its first step."""

    def fault(moment: str) -> None:
        if moment == "before 0":
            bench.runner.fault = lambda _: None
            work()

    bench.runner.fault = fault
    assert bench.done(text, OPERATOR).state == "succeeded"


def test_a_move_whose_time_passed_during_a_downtime_is_cancelled_and_says_how_to_request_it_again(
    bench: Bench,
) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.finish()
    again = restarted(bench, hours=26)
    again.finish()
    ended = now(again, asked)
    assert (ended.state, host(again)) == ("cancelled", "node1")
    assert events(again, asked)[-1] == "operation.cancelled"
    told = notes(again, asked)[-1]
    assert told.startswith(f":hourglass: <@{OPERATOR.id}>, cancelled. Its time, <!date^{int(asked.at)}^")
    assert told.endswith("Nothing was changed. Request again: `/mautic migrate client-x --host=node2 --at=22:00`")
    assert ended.revision > asked.revision, "its card is updated"
    assert again.ask("migrate client-x --host=node2 --at=22:00", OPERATOR).at == asked.at + 24 * HOUR


def test_a_suspended_machine_begins_nothing_late_either(bench: Bench) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.finish()
    bench.clock.move(26 * HOUR)
    expiry(bench.context)
    bench.finish()
    assert (now(bench, asked).state, host(bench)) == ("cancelled", "node1")


def test_a_short_downtime_only_delays_a_move(bench: Bench) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.finish()
    again = restarted(bench, hours=(until(bench, asked, GRACE) - 1) / HOUR)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("succeeded", "node2")


def test_an_operation_that_needs_no_approval_is_not_begun_late_either(bench: Bench) -> None:
    """The bot may die before a worker has looked at it."""
    policies: Any = bench.context.settings.policies
    policies["migrate"] = replace(policies["default"], approvals=0)
    asked = bench.ask(MOVE, OPERATOR)
    assert asked.state == "queued"
    again = restarted(bench, hours=26)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("cancelled", "node1")


def test_a_crash_between_the_start_and_the_first_step_begins_nothing_later(bench: Bench) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.clock.move(until(bench, asked))

    def fault(moment: str) -> None:
        raise Killed(moment)

    bench.runner.fault = fault
    with pytest.raises(Killed):
        bench.finish()
    assert now(bench, asked).state == "running"
    again = restarted(bench, hours=12)
    again.finish()
    ended = now(again, asked)
    assert (ended.state, ended.started, host(again)) == ("cancelled", None, "node1")


def test_a_move_that_had_begun_is_brought_to_its_end_however_late(bench: Bench) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.clock.move(until(bench, asked))

    def fault(moment: str) -> None:
        if moment == "before 3":
            raise Killed(moment)

    bench.runner.fault = fault
    with pytest.raises(Killed):
        bench.finish()
    again = restarted(bench, hours=12)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("succeeded", "node2")


# -- what waits for another reason past its time begins when that is over --------------------------------------------


@pytest.mark.parametrize("downtime", [0.0, 1.0])
def test_a_move_that_waits_for_a_worker_begins_when_one_is_free(bench: Bench, downtime: float) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.finish()

    def for_hours() -> None:
        bench.clock.move(until(bench, asked, 15))
        expiry(bench.context)
        bench.clock.move(5 * HOUR)
        expiry(bench.context)

    during(bench, "restart client-y", for_hours)
    again = restarted(bench, hours=downtime)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("succeeded", "node2")


def test_a_move_that_waits_for_another_operation_on_its_tenant_begins_when_that_has_ended(bench: Bench) -> None:
    object.__setattr__(bench.context.settings.bot, "workers", 4)
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.finish()
    bench.clock.move(2 * HOUR)
    snapshots(bench.context)
    assert bench.context.operations.select("requester = ? AND tenant = 'client-x' AND state = 'queued'", SYSTEM)

    def fault(moment: str) -> None:
        if moment == "before 0" and bench.context.operations.select("tenant = 'client-x' AND state = 'running'"):
            bench.runner.fault = lambda _: None
            bench.clock.move(until(bench, asked, 15))
            expiry(bench.context)
            bench.clock.move(3 * HOUR)

    bench.runner.fault = fault
    bench.finish()
    assert (now(bench, asked).state, host(bench)) == ("succeeded", "node2")


def test_a_move_that_waits_for_the_end_of_a_freeze_begins_when_it_ends(bench: Bench) -> None:
    freezes = Freezes(bench.context.operations)
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    freezes.begin("client-x", LEAD_2.id, "the sale is on", None)
    bench.clock.move(until(bench, asked))
    bench.finish()
    assert now(bench, asked).held_by == "freeze"
    again = restarted(bench, hours=12)
    again.finish()
    Freezes(again.context.operations).end("client-x", LEAD_2.id)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("succeeded", "node2")


def test_a_retry_is_a_person_s_decision_and_begins_at_once(bench: Bench) -> None:
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.clock.move(until(bench, asked))

    def fault(moment: str) -> None:
        if moment == "started 0":
            raise LxdError("LXD could not.")

    bench.runner.fault = fault
    bench.finish()
    assert now(bench, asked).state == "failed"
    again = restarted(bench, hours=9)
    make_desk(again).click("retry", asked.id, OPERATOR)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("succeeded", "node2")


# -- approvals --------------------------------------------------------------------------------------------------------


def unapproved(bench: Bench) -> Operation:
    """Return a move that waits for its approval again at its time, because its approver is gone."""
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.slack.groups["mautic-approvers"].remove(LEAD.id)
    bench.context.people.forget()
    bench.clock.move(until(bench, asked))
    bench.finish()
    assert now(bench, asked).state == "awaiting_approval"
    return now(bench, asked)


def test_an_approval_that_is_missing_at_the_time_can_be_given_within_an_hour(bench: Bench) -> None:
    asked = unapproved(bench)
    assert asked.expires == asked.at + GRACE
    assert f"<@{OPERATOR.id}>, 1 more approval needed by <!date^{int(asked.expires)}^" in notes(bench, asked)[-1]
    bench.clock.move(GRACE - 1)
    bench.approve(asked, LEAD_2)
    bench.finish()
    assert (now(bench, asked).state, host(bench)) == ("succeeded", "node2")


def test_an_approval_that_comes_hours_after_the_time_begins_nothing(bench: Bench) -> None:
    asked = unapproved(bench)
    bench.clock.move(12 * HOUR)
    with pytest.raises(Refused, match=r"has expired\. .*again: `/mautic migrate client-x --host=node2 --at=22:00`"):
        bench.approve(asked, LEAD_2)
    bench.finish()
    assert host(bench) == "node1"
    expiry(bench.context)
    bench.clock.move(GRACE)
    expiry(bench.context)
    assert now(bench, asked).state == "expired"
    assert notes(bench, asked)[-1].endswith("Request again: `/mautic migrate client-x --host=node2 --at=22:00`")


def test_a_downtime_after_an_approval_in_the_last_minute_begins_nothing_later(bench: Bench) -> None:
    asked = unapproved(bench)
    bench.approve(asked, LEAD_2)
    again = restarted(bench, hours=12)
    again.finish()
    assert (now(again, asked).state, host(again)) == ("cancelled", "node1")


def test_an_approval_after_a_long_freeze_has_an_hour_of_its_own(bench: Bench) -> None:
    freezes = Freezes(bench.context.operations)
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    freezes.begin("client-x", LEAD_2.id, "the sale is on", None)
    bench.clock.move(until(bench, asked))
    bench.finish()
    bench.slack.groups["mautic-approvers"].remove(LEAD.id)
    bench.context.people.forget()
    bench.clock.move(24 * HOUR)
    freezes.end("client-x", LEAD_2.id)
    bench.finish()
    assert now(bench, asked).state == "awaiting_approval"
    bench.clock.move(GRACE - 1)
    bench.approve(now(bench, asked), LEAD_2)
    bench.finish()
    assert (now(bench, asked).state, host(bench)) == ("succeeded", "node2")


def test_a_move_whose_approval_cannot_be_checked_near_its_time_is_cancelled(bench: Bench) -> None:
    """The bot runs, but Slack cannot be reached all night."""
    asked = bench.approve(bench.ask(MOVE, OPERATOR))
    bench.context.people.forget()
    bench.slack.fail("users.info", OSError("no route to host"), times=1000)
    for _ in range(3):
        bench.clock.move(until(bench, asked, 15) if bench.clock() < asked.at else 0.7 * HOUR)
        expiry(bench.context)
        bench.finish()
    assert (now(bench, asked).state, host(bench)) == ("cancelled", "node1")


# -- batches: only the start of the whole counts ----------------------------------------------------------------------


@pytest.fixture
def rollout(tmp_path: Path) -> tuple[Bench, Operation]:
    """Return a bench, and an approved rollout to three tenants in two rings, three hours apart, at 22:00."""
    bench = make_bench(tmp_path, MAUTIC_OPS_ROLLOUTS__SOAK="180", **ONE_WORKER)
    for name in ("client-x", "client-y", "client-z"):
        assert bench.done(f"new {name}").state == "succeeded"
    add_releases(bench, "6.0.10")
    assert "Rehearsing" in bench.answer("rollout 6.0.10 --all --at 22:00", OPERATOR).text
    bench.finish()
    offers(bench.context)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    return bench, bench.approve(batch)


def test_a_rollout_whose_time_was_missed_is_cancelled_as_a_whole(rollout: tuple[Bench, Operation]) -> None:
    bench, batch = rollout
    bench.finish()
    again = restarted(bench, hours=until(bench, batch, GRACE) / HOUR)
    again.finish()
    assert now(again, batch).state == "cancelled"
    assert again.context.operations.select("parent = ?", batch.id) == []
    assert notes(again, batch)[-1].endswith("Request again: `/mautic rollout 6.0.10 --all --at 22:00`")
    card = "\n".join(mrkdwn(make_desk(again).announcer.card(now(again, batch)).blocks))
    assert re.search(r"\*Reason:\* Its time, .+, passed while the bot was not running .+\nNothing was changed", card)


def test_later_rings_of_a_rollout_are_not_late(rollout: tuple[Bench, Operation]) -> None:
    bench, batch = rollout
    bench.clock.move(until(bench, batch))
    for _ in range(3):
        bench.finish()
        bench.clock.move(3 * HOUR)
    assert now(bench, batch).state == "succeeded"
