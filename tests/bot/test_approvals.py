"""Approvals: who may decide, that one decision wins, and that only what was approved runs."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bot.engine.approvals import Verdict
from bot.lxd.protocol import LxdUnavailable
from bot.model.actor import Actor
from bot.model.plan import NotNow, Refused
from bot.store import recovery
from bot.store.operation import Operation
from tests.support.bot import ASKER, LEAD, LEAD_2, OPERATOR, Bench, add_releases, events, make_bench, notes

LEAD_3 = Actor("U0OPSLEAD3", LEAD.roles)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def with_policy(bench: Bench, **changes: object) -> None:
    """Change the policy of every command."""
    settings = bench.context.settings
    policies = {name: replace(policy, **changes) for name, policy in settings.policies.items()}
    bench.context.approvals.settings = bench.context.approvals.approvers.settings = replace(settings, policies=policies)


def decide(bench: Bench, operation: Operation, actor: Actor, verdict: Verdict = "approve", **more: str) -> Operation:
    return bench.context.approvals.decide(operation.id, actor, verdict, via="test", **more)


def state(bench: Bench, operation: Operation) -> str:
    return bench.context.operations.get(operation.id).state


def test_an_approval_queues_the_operation(bench: Bench) -> None:
    operation = decide(bench, bench.ask("new client-x"), LEAD)
    assert operation.state == "queued"
    assert [(one.actor, one.verdict, one.via) for one in operation.decisions] == [(LEAD.id, "approve", "test")]
    assert events(bench, operation) == ["operation.requested", "operation.approved"]


def test_nobody_approves_or_denies_their_own_request(bench: Bench) -> None:
    operation = bench.ask("new client-x", LEAD)
    for verdict in ("approve", "deny"):
        with pytest.raises(Refused, match="another approver has to"):
            decide(bench, operation, LEAD, verdict)
    assert state(bench, operation) == "awaiting_approval"


@pytest.mark.parametrize("actor", [OPERATOR, Actor("U0NOBODY", frozenset())])
def test_only_roles_of_the_policy_may_decide(bench: Bench, actor: Actor) -> None:
    operation = bench.ask("new client-x")
    with pytest.raises(Refused, match="Only approvers can decide"):
        decide(bench, operation, actor)
    assert state(bench, operation) == "awaiting_approval"


def test_only_roles_of_the_policy_may_ask(bench: Bench) -> None:
    bench.context.approvals.refuse_to_ask("new", ASKER)
    with pytest.raises(Refused, match="Ask an operator or an approver"):
        bench.context.approvals.refuse_to_ask("delete", ASKER)


def test_two_approvals_come_from_two_people(bench: Bench) -> None:
    with_policy(bench, approvals=2)
    operation = bench.ask("new client-x")
    assert decide(bench, operation, LEAD).state == "awaiting_approval"
    with pytest.raises(Refused, match="One more person has to approve"):
        decide(bench, operation, LEAD)
    assert decide(bench, operation, LEAD_2).state == "queued"
    assert events(bench, operation) == ["operation.requested", "operation.seconded", "operation.approved"]


def test_earlier_approvals_are_checked_again_when_the_last_one_comes(bench: Bench) -> None:
    with_policy(bench, approvals=2)
    operation = bench.ask("new client-x")
    decide(bench, operation, LEAD)
    bench.slack.groups["mautic-approvers"] = [LEAD_2.id, LEAD_3.id]
    bench.context.people.forget()
    assert decide(bench, operation, LEAD_2).state == "awaiting_approval"
    assert (
        f"<@{LEAD.id}> may no longer approve this request, so that approval does not count"
        in notes(bench, operation)[-2]
    )
    assert notes(bench, operation)[-1].endswith("approved (1 of 2). 1 more approval needed.")
    assert decide(bench, operation, LEAD_3).state == "queued"
    assert events(bench, operation)[-3:] == ["operation.voice_lost", "operation.seconded", "operation.approved"]


@pytest.mark.parametrize("gone", ["role", "deleted", "unknown"])
def test_approvals_are_checked_again_before_the_operation_starts(bench: Bench, gone: str) -> None:
    operation = decide(bench, bench.ask("new client-x"), LEAD)
    if gone == "role":
        bench.slack.groups["mautic-approvers"] = [LEAD_2.id]
    elif gone == "deleted":
        bench.slack.people[LEAD.id] = {"deleted": True}
    else:
        bench.slack.fail("users.info", "user_not_found")
    bench.context.people.forget()
    assert not bench.runner.run_one()
    assert state(bench, operation) == "awaiting_approval"
    assert notes(bench, operation)[-1].endswith("1 more approval needed before it starts.")
    assert decide(bench, operation, LEAD_2).state == "queued"
    bench.finish()
    assert state(bench, operation) == "succeeded"
    assert events(bench, operation)[2:5] == ["operation.voice_lost", "operation.unapproved", "operation.approved"]


def test_an_operation_waits_while_slack_does_not_say_who_may_approve(bench: Bench) -> None:
    operation = decide(bench, bench.ask("new client-x"), LEAD)
    bench.context.people.forget()
    bench.slack.fail("users.info", TimeoutError())
    assert not bench.runner.run_one()
    assert state(bench, operation) == "queued"
    bench.finish()
    assert state(bench, operation) == "succeeded"


def test_an_operation_waits_when_the_policy_now_needs_more_approvals(bench: Bench) -> None:
    operation = decide(bench, bench.ask("new client-x"), LEAD)
    with_policy(bench, approvals=2)
    assert not bench.runner.run_one()
    assert decide(bench, operation, LEAD_2).state == "queued"


def test_a_started_operation_continues_though_its_approver_lost_the_role(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, fault=die_in_the_middle)
    operation = decide(bench, bench.ask("new client-x"), LEAD)
    with pytest.raises(KeyboardInterrupt):
        bench.runner.run_one()
    again = make_bench(tmp_path, bench.lxd, slack=bench.slack)
    again.slack.groups["mautic-approvers"] = [LEAD_2.id]
    recovery.recover(again.context.operations)
    again.finish()
    assert state(again, operation) == "succeeded"


def die_in_the_middle(moment: str) -> None:
    if moment == "recorded 0":
        raise KeyboardInterrupt


@pytest.mark.parametrize("tightened", ["quorum", "role"])
def test_a_retry_checks_the_approvers_and_their_number_again(bench: Bench, tightened: str) -> None:
    bench.lxd.fail_next("start", OSError("broken"))
    operation = bench.done("new client-x")
    assert operation.state == "failed"
    if tightened == "quorum":
        with_policy(bench, approvals=2)
    else:
        bench.slack.groups["mautic-approvers"] = [LEAD_2.id]
        bench.context.people.forget()
    with pytest.raises(Refused, match="`new` now needs 1 more approval than request #1 has from people who may"):
        bench.context.approvals.refuse_to_retry(operation, ASKER)


def test_the_first_approver_may_still_deny_before_the_second_approval(bench: Bench) -> None:
    with_policy(bench, approvals=2)
    operation = bench.ask("new client-x")
    decide(bench, operation, LEAD)
    assert decide(bench, operation, LEAD, "deny", reason="I was wrong").state == "denied"


def test_a_denial_tells_the_requester_who_and_why(bench: Bench) -> None:
    operation = decide(bench, bench.ask("new client-x"), LEAD, "deny", reason="because the contract is over")
    assert (operation.state, operation.outcome) == ("denied", "Denied: the contract is over")
    assert notes(bench, operation)[-1] == (
        f":no_entry: <@{ASKER.id}>, <@{LEAD.id}> denied your request “Create tenant client-x”: the contract is over. "
        "Nothing was changed."
    )


def test_a_reason_mentions_nobody_and_stays_short(bench: Bench) -> None:
    operation = decide(
        bench, bench.ask("new client-x"), LEAD, "deny", reason="<!channel> <@U0VICTIM> *x* " + "y" * 5000
    )
    assert "<!channel>" not in notes(bench, operation)[-1]
    assert "<@U0VICTIM>" not in notes(bench, operation)[-1]
    assert len(notes(bench, operation)[-1]) < 1000


def test_a_denied_tenant_is_free_again(bench: Bench) -> None:
    decide(bench, bench.ask("new client-x"), LEAD, "deny")
    assert bench.done("new client-x").state == "succeeded"


def test_a_request_expires_after_24_hours(bench: Bench) -> None:
    operation = bench.ask("new client-x")
    bench.clock.move(24 * 3600 - 1)
    assert bench.context.approvals.expire() == 0
    bench.clock.move(1)
    with pytest.raises(Refused, match="has expired"):
        decide(bench, operation, LEAD)
    assert state(bench, operation) == "expired"
    assert f"<@{ASKER.id}>" in notes(bench, operation)[-1]
    assert events(bench, operation) == ["operation.requested", "operation.expired"]


def test_a_request_that_expired_while_the_bot_was_down_cannot_be_approved(bench: Bench, tmp_path: Path) -> None:
    operation = bench.ask("new client-x")
    again = make_bench(tmp_path, bench.lxd)
    again.clock.move(30 * 24 * 3600)
    with pytest.raises(Refused, match="has expired"):
        decide(again, operation, LEAD)
    assert again.context.approvals.expire() == 0, "it has already expired, at the click"
    assert not again.runner.run_one()


def test_approving_a_dangerous_operation_requires_the_tenants_name(bench: Bench) -> None:
    bench.done("new client-x")
    operation = bench.ask("delete client-x", OPERATOR)
    for typed in ("", "client-y", "client-x1"):
        with pytest.raises(Refused, match="add the tenant name"):
            decide(bench, operation, LEAD, typed_name=typed)
    assert decide(bench, operation, LEAD, typed_name=" Client-X ").state == "queued"


def test_a_denial_requires_no_name(bench: Bench) -> None:
    bench.done("new client-x")
    assert decide(bench, bench.ask("delete client-x", OPERATOR), LEAD, "deny").state == "denied"


def test_a_request_whose_plan_no_longer_matches_is_cancelled(bench: Bench) -> None:
    operation = bench.ask("new client-x")
    plans = bench.context.settings.plans
    plans["small"] = replace(plans["small"], memory="1GiB")  # type: ignore[index]
    with pytest.raises(Refused, match="Request #1 was cancelled: the plan no longer matches"):
        decide(bench, operation, LEAD)
    assert state(bench, operation) == "cancelled"
    assert f"<@{ASKER.id}>, cancelled: the plan no longer matches" in notes(bench, operation)[-1]
    assert events(bench, operation)[-1] == "operation.drifted"
    assert not bench.runner.run_one()


def test_a_request_whose_plan_is_no_longer_possible_is_cancelled_with_the_reason(bench: Bench) -> None:
    bench.done("new client-x --domain taken.example.com")
    operation = bench.ask("new client-y --domain new.example.com")
    bench.lxd.update("client-x", {"user.mautic-ops.domain": "new.example.com"})
    with pytest.raises(Refused, match="already belongs to `client-x`"):
        decide(bench, operation, LEAD)
    assert state(bench, operation) == "cancelled"
    assert "client-x" in notes(bench, operation)[-1]


def test_an_lxd_that_does_not_answer_cancels_nothing(bench: Bench) -> None:
    operation = bench.ask("new client-x")
    bench.lxd.fail_next("instances", LxdUnavailable("LXD does not answer."))
    with pytest.raises(NotNow, match=r"LXD does not answer.*still waits for approval"):
        decide(bench, operation, LEAD)
    assert decide(bench, operation, LEAD).state == "queued"


@pytest.mark.parametrize("actor", [ASKER, LEAD])
def test_the_requester_or_an_approver_may_withdraw_a_request(bench: Bench, actor: Actor) -> None:
    operation = bench.ask("new client-x")
    assert bench.context.approvals.cancel(operation.id, actor).state == "cancelled"
    with pytest.raises(Refused, match="was cancelled"):
        decide(bench, operation, LEAD)


def test_others_cannot_withdraw_a_request_and_nobody_can_once_it_is_approved(bench: Bench) -> None:
    operation = bench.ask("new client-x")
    with pytest.raises(Refused, match=r"Only <@U0ACCOUNT> or an approver"):
        bench.context.approvals.cancel(operation.id, OPERATOR)
    bench.approve(operation)
    with pytest.raises(Refused, match=r"is queued \(approved by <@U0OPSLEAD>\) and can no longer be cancelled\."):
        bench.context.approvals.cancel(operation.id, ASKER)


def test_a_decision_on_an_unknown_request_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match="There is no request #7"):
        bench.context.approvals.decide(7, LEAD, "approve", via="test")


def test_two_hundred_decisions_at_once_have_one_winner(bench: Bench) -> None:
    operation = bench.ask("new client-x")
    people = [Actor(f"U0LEAD{number}", LEAD.roles) for number in range(200)]
    ready = threading.Barrier(20)

    def click(number: int) -> str:
        if number < 20:
            ready.wait()
        try:
            decide(bench, operation, people[number], "approve" if number % 2 else "deny")
        except Refused as refused:
            return str(refused)
        return people[number].id

    with ThreadPoolExecutor(20) as pool:
        said = Counter(pool.map(click, range(200)))
    after = bench.context.operations.get(operation.id)
    winner = after.decisions[0].actor
    assert len(after.decisions) == 1
    assert said.pop(winner) == 1
    assert sum(said.values()) == 199
    approved = f"is queued (approved by <@{winner}>)"
    expected = f"was denied by <@{winner}>" if after.state == "denied" else approved
    assert set(said) == {f"Request #1 {expected}."}
    assert events(bench, operation) == [
        "operation.requested",
        "operation.denied" if after.state == "denied" else "operation.approved",
    ]


def test_a_choice_is_dropped_when_its_approver_loses_the_role(bench: Bench) -> None:
    bench.slack.groups["mautic-approvers"].append(LEAD_3.id)
    bench.done("new client-x")
    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    with_policy(bench, approvals=2)
    operation = bench.ask(f"restore client-x {snapshot.name}", OPERATOR)
    decide(bench, operation, LEAD, typed_name="client-x", choice="send")
    bench.slack.groups["mautic-approvers"].remove(LEAD.id)
    bench.context.people.forget()
    for approver in (LEAD_2, LEAD_3):
        decide(bench, operation, approver, typed_name="client-x")
    approved = bench.context.operations.get(operation.id)
    assert approved.state == "queued"
    assert approved.chosen == ""


def test_there_is_time_to_replace_an_approval_that_is_lost_at_the_scheduled_time(bench: Bench) -> None:
    add_releases(bench, "6.0.10")
    bench.done("new client-x")
    bench.done("rehearse client-x", OPERATOR)
    operation = bench.ask("upgrade client-x --at 20:00", OPERATOR)
    decide(bench, operation, LEAD)
    bench.finish()
    bench.slack.groups["mautic-approvers"].remove(LEAD.id)
    bench.context.people.forget()
    bench.clock.move(operation.at - bench.clock() + 5)
    bench.finish()
    waits = bench.context.operations.get(operation.id)
    assert (waits.state, waits.held_by) == ("awaiting_approval", "")
    bench.clock.move(60)
    bench.context.approvals.expire()
    decide(bench, waits, LEAD_2)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
