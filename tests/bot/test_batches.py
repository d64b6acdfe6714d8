"""Batches: one card and one approval for many operations, each of which has its own outcome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.engine.runner import Runner
from bot.lxd.protocol import LxdError
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.store import audit, batches, claims, recovery
from bot.store.operation import Operation
from tests.support.bot import (
    ASKER,
    LEAD,
    LEAD_2,
    OPERATOR,
    Bench,
    Desk,
    events,
    live,
    make_bench,
    make_desk,
    notes,
    slack_error,
    switch,
    until,
)
from tests.support.simulated_lxd import SimulatedLxd

NAMES = tuple(f"client-{letter}" for letter in "abcdef")


def tenants(bench: Bench, *names: str) -> None:
    for name in names:
        assert bench.done(f"new {name}").state == "succeeded"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Six tenants."""
    made = make_bench(tmp_path)
    tenants(made, *NAMES)
    desk = make_desk(made)
    desk.announce()
    desk.slack.said.clear()
    return desk


def children(bench: Bench, batch: Operation) -> list[Operation]:
    return bench.context.operations.select("parent = ?", batch.id)


def states(bench: Bench, batch: Operation) -> dict[str, str]:
    return {child.tenant: child.state for child in children(bench, batch)}


def taken(bench: Bench) -> dict[str, int]:
    return {name: len(bench.lxd.snapshots(name)) for name in NAMES}


def fail_for(bench: Bench, *names: str, method: str = "snapshot") -> None:
    def call(called: str, arguments: tuple[Any, ...]) -> None:
        if called == method and arguments[0] in names:
            raise LxdError("The pool has an error.")

    bench.lxd.on_call = call


def again(bench: Bench, batch: Operation) -> Operation:
    return bench.context.operations.get(batch.id)


def shown(desk: Desk, operation: Operation) -> str:
    return "\n".join(str(block) for block in desk.announcer.card(again(desk.bench, operation)).blocks)


def buttons(desk: Desk, operation: Operation) -> list[str]:
    card = desk.announcer.card(again(desk.bench, operation))
    rows = [block["elements"] for block in card.blocks if block["type"] == "actions"]
    return [one["action_id"] for row in rows for one in row]


# -- asking and approving ------------------------------------------------------------------------------------------


def test_a_batch_is_one_request_with_one_approval_and_a_line_per_tenant(desk: Desk) -> None:
    bench = desk.bench
    desk.command("snapshot --all --note spring", OPERATOR)
    batch = desk.last()
    assert (batch.state, batch.tenant, batch.subject, batch.children) == ("awaiting_approval", "", "fleet", 6)
    assert "please approve or deny this request" in notes(bench, batch)[0]
    assert children(bench, batch) == [], "a batch that waits for approval locks no tenant"
    desk.announce()
    assert "Take a snapshot of 6 tenants" in shown(desk, batch)
    assert "client-a, client-b, client-c, client-d, client-e, client-f" in shown(desk, batch)
    desk.click("approve", batch.id)
    bench.finish()
    desk.announce()
    assert again(bench, batch).state == "succeeded"
    assert taken(bench) == dict.fromkeys(NAMES, 1)
    assert "6 of 6 done" in shown(desk, batch)
    card = again(bench, batch).message_ts
    posted = [one for one in desk.slack.said if one["method"] == "chat.postMessage"]
    lines = [one["text"] for one in posted if one.get("thread_ts") == card]
    for name in NAMES:
        (line,) = (line for line in lines if f"`{name}`" in line)
        assert "done" in line
        assert "writes paused" in line
    assert sum(f"<@{OPERATOR.id}>, all 6 done." in line for line in lines) == 1
    assert len([one for one in posted if not one.get("thread_ts")]) == 1
    assert not audit.verify(bench.context.database).broken


def test_the_requester_cannot_approve_a_batch_and_one_approver_is_enough(desk: Desk) -> None:
    desk.command("snapshot --all", LEAD)
    desk.click("approve", desk.last().id, LEAD)
    assert desk.last().state == "awaiting_approval"
    desk.click("approve", desk.last().id, LEAD_2)
    assert desk.last().state == "queued"


def test_tenants_are_named_with_commas(desk: Desk) -> None:
    batch = desk.bench.done("snapshot client-c,Client-A,client-c", OPERATOR)
    assert states(desk.bench, batch) == {"client-c": "succeeded", "client-a": "succeeded"}
    assert batch.again == "snapshot client-c,client-a,client-c"
    alone = desk.bench.done("snapshot client-b,", OPERATOR)
    assert states(desk.bench, alone) == {"client-b": "succeeded"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("--tag vip", {"client-b", "client-d"}),
        ("--size medium", {"client-e"}),
        ("--size medium --tag vip", set()),
        ("--host local", set(NAMES)),
    ],
)
def test_tenants_are_selected_by_tag_size_and_host(desk: Desk, text: str, meant: set[str]) -> None:
    for name in ("client-b", "client-d"):
        desk.bench.done(f"tag {name} vip", OPERATOR)
    desk.bench.lxd.update("client-e", as_labels(plan="medium"))
    if not meant:
        with pytest.raises(Refused, match=f"No tenant matches `{text}`"):
            desk.bench.answer(f"snapshot {text}", OPERATOR)
        return
    plan = desk.bench.answer(f"snapshot {text}", OPERATOR)
    assert {child.tenant for child in plan.children} == meant
    assert plan.subject == ("host" if "host" in text else "fleet")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("snapshot", "Which tenants?"),
        ("snapshot client-a --all", "Either name tenants or select them with `--all`"),
        ("snapshot --host nowhere", "There is no host"),
        ("snapshot --size huge", "There is no size"),
        ("snapshot --tag no/slash", "can't be a tag"),
        ("snapshot client-a,client-z", "There is no tenant `client-z`"),
    ],
)
def test_an_invalid_selection_is_refused(desk: Desk, text: str, why: str) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        desk.bench.answer(text, OPERATOR)


def test_planning_a_batch_takes_one_request_to_each_server(tmp_path: Path) -> None:
    others = {"solo": SimulatedLxd()}
    bench = make_bench(tmp_path, others=others)
    tenants(bench, *NAMES[:3])
    for name in NAMES[3:]:
        assert bench.done(f"new {name} --host solo").state == "succeeded"
    for command in ("snapshot --all", "restart --all"):
        for lxd in (bench.lxd, others["solo"]):
            lxd.calls.clear()
        plan = bench.answer(command, OPERATOR)
        assert len(plan.children) == 6
        for lxd in (bench.lxd, others["solo"]):
            assert lxd.calls["instances"] == 1
            assert set(lxd.calls.values()) == {1}, (command, lxd.calls)


def test_a_batch_of_all_tenants_is_refused_while_a_server_is_silent(tmp_path: Path) -> None:
    solo = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": solo})
    tenants(bench, "client-a")

    switch(solo).set()
    with pytest.raises(LxdError, match="`solo` does not answer"):
        bench.answer("snapshot --all", OPERATOR)
    assert len(bench.answer("snapshot --host local", OPERATOR).children) == 1


def test_a_selected_tenant_that_cannot_take_part_is_left_out_with_the_reason(desk: Desk) -> None:
    desk.bench.done("stop client-b", OPERATOR)
    plan = desk.bench.answer("restart --all", OPERATOR)
    assert {child.tenant for child in plan.children} == set(NAMES) - {"client-b"}
    assert "client-b: client-b is not running" in plan.remarks["Left out"]
    with pytest.raises(Refused, match="`client-b` is not running"):
        desk.bench.answer("restart client-a,client-b", OPERATOR)


def test_the_fingerprint_covers_the_values_of_all_children_but_not_their_wording(desk: Desk) -> None:
    plan = desk.bench.answer("snapshot --all", OPERATOR)
    first, *rest = plan.children
    reworded = replace(first, summary="Other words", facts={"Kept": "otherwise"})
    other = replace(first, values={**first.values, "note": "another"})
    assert replace(plan, children=(reworded, *rest)).fingerprint() == plan.fingerprint()
    assert replace(plan, children=(other, *rest)).fingerprint() != plan.fingerprint()
    assert replace(plan, children=tuple(rest)).fingerprint() != plan.fingerprint()


def test_a_batch_that_no_longer_matches_is_cancelled_at_its_approval(desk: Desk) -> None:
    batch = desk.bench.ask("snapshot --all", OPERATOR)
    desk.bench.done("delete client-c", OPERATOR)
    desk.click("approve", batch.id)
    assert again(desk.bench, batch).state == "cancelled"
    assert "There is no tenant `client-c`" in again(desk.bench, batch).outcome
    assert "Nothing was changed" in shown(desk, batch)


def test_a_batch_that_no_longer_matches_when_it_begins_changes_nothing(desk: Desk) -> None:
    batch = desk.bench.approve(desk.bench.ask("snapshot --all", OPERATOR))
    desk.bench.lxd.update("client-c", as_labels(role="archived"))
    desk.bench.finish()
    ended = again(desk.bench, batch)
    assert (ended.state, children(desk.bench, batch)) == ("failed", [])
    assert "There is no tenant `client-c`" in ended.outcome
    assert "Nothing was changed" in shown(desk, batch)
    desk.bench.lxd.update("client-c", as_labels(role="tenant"))
    desk.click("retry", batch.id, OPERATOR)
    desk.bench.finish()
    assert again(desk.bench, batch).state == "succeeded"


def test_where_the_policy_wants_a_typed_name_the_approver_types_the_number_of_tenants(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    tenants(bench, *NAMES[:2])
    desk = make_desk(bench)
    policies = dict(bench.context.settings.policies)
    policies["snapshot"] = replace(policies["snapshot"], step_up="typed-name")
    object.__setattr__(bench.context.settings, "policies", policies)
    batch = bench.ask("snapshot --all", OPERATOR)
    with pytest.raises(Refused, match=re.escape("add the number of tenants: reply `approve 2`")):
        bench.context.approvals.decide(batch.id, LEAD, "approve", via="test")
    desk.announce()
    desk.reply("approve 2", batch.id)
    assert again(bench, batch).state == "queued"
    other = bench.ask("snapshot --all", OPERATOR)
    desk.command(f"approve {other.id} 2", LEAD)
    assert again(bench, other).state == "queued"


# -- running -------------------------------------------------------------------------------------------------------


def test_children_run_within_the_limits_in_all_and_per_host(tmp_path: Path) -> None:
    solo = SimulatedLxd()
    bench = make_bench(
        tmp_path, others={"solo": solo}, MAUTIC_OPS_BATCHES__AT_ONCE="3", MAUTIC_OPS_BATCHES__AT_ONCE_HOST="2"
    )
    tenants(bench, *NAMES)
    for number in range(3):
        assert bench.done(f"new other-{number} --host solo").state == "succeeded"
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    bench.lxd.latency = solo.latency = {"snapshot": 0.05}
    seen: list[Counter[str]] = []

    def changed() -> None:
        runner.wake()
        running = bench.context.operations.select("parent = ? AND state = 'running'", batch.id)
        seen.append(Counter(one.host for one in running))

    runner = Runner(bench.context, workers=8)
    bench.context.operations.changed = changed
    runner.start()
    until(lambda: again(bench, batch).state == "succeeded")
    runner.stop()
    assert max(sum(one.values()) for one in seen) == 3
    assert max(max(one.values(), default=0) for one in seen) == 2


def test_a_persons_request_runs_before_the_rest_of_a_batch(desk: Desk) -> None:
    bench = desk.bench
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    for _ in range(3):
        assert bench.runner.run_one()
    request = bench.ask("restart client-f", OPERATOR)
    assert bench.runner.run_one()
    assert again(bench, request).state == "succeeded"
    assert Counter(states(bench, batch).values()) == {"succeeded": 2, "waiting": 4}
    bench.finish()
    assert again(bench, batch).state == "succeeded"


def test_a_tenant_that_waits_for_its_turn_is_not_locked(desk: Desk) -> None:
    bench = desk.bench
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    assert bench.runner.run_one()
    desk.command("stop client-f", OPERATOR)
    request = desk.last()
    assert (request.command, request.state) == ("stop", "awaiting_approval")
    bench.finish()
    # Everything else ran first; then only that request was in the way.
    held = next(child for child in children(bench, batch) if child.tenant == "client-f")
    assert (held.state, again(bench, batch).state) == ("failed", "failed")
    assert f"locked by request #{request.id} (stop)" in held.outcome
    assert taken(bench)["client-a"] == 1
    bench.context.operations.changed()
    desk.click("deny", request.id)
    desk.click("retry", held.id, OPERATOR)
    bench.finish()
    assert again(bench, batch).state == "succeeded"


# -- failures, and people ------------------------------------------------------------------------------------------


def test_a_failed_child_has_its_own_retry_and_blocks_no_other(desk: Desk) -> None:
    bench = desk.bench
    fail_for(bench, "client-c")
    batch = bench.done("snapshot --all", OPERATOR)
    desk.announce()
    assert (batch.state, states(bench, batch)["client-c"]) == ("failed", "failed")
    assert Counter(states(bench, batch).values()) == {"succeeded": 5, "failed": 1}
    assert "5 of 6 done, 1 failed (`client-c`)" in notes(bench, batch)[-1]
    failed = next(child for child in children(bench, batch) if child.state == "failed")
    assert buttons(desk, failed) == ["retry"]
    (line,) = (one for one in desk.slack.said if "`client-c` — failed" in one["text"])
    assert line["thread_ts"] == again(bench, batch).message_ts
    assert "The pool has an error" in line["text"]
    bench.lxd.on_call = None
    desk.click("retry", failed.id, OPERATOR)
    assert again(bench, batch).state == "running"
    bench.finish()
    desk.announce()
    assert again(bench, batch).state == "succeeded"
    assert taken(bench) == dict.fromkeys(NAMES, 1)
    updated = [one for one in desk.slack.said if one["method"] == "chat.update" and "`client-c`" in one["text"]]
    assert updated[-1]["ts"] == line["ts"]
    assert "done" in updated[-1]["text"]


def test_a_batch_pauses_after_three_failures_until_somebody_decides(desk: Desk) -> None:
    bench = desk.bench
    fail_for(bench, "client-a", "client-b", "client-c")
    batch = bench.done("snapshot --all", OPERATOR)
    assert batch.state == "running"
    assert Counter(states(bench, batch).values()) == {"failed": 3, "waiting": 3}
    assert "paused after 3 failures" in notes(bench, batch)[-1]
    assert "Paused automatically" in shown(desk, batch)
    assert buttons(desk, batch) == ["batch_go_on", "batch_stop"]
    desk.click("batch_go_on", batch.id, OPERATOR)
    bench.finish()
    assert Counter(states(bench, batch).values()) == {"failed": 3, "succeeded": 3}
    assert again(bench, batch).state == "failed"
    bench.lxd.on_call = None
    assert buttons(desk, batch) == ["retry"]
    desk.click("retry", batch.id, OPERATOR)
    bench.finish()
    assert again(bench, batch).state == "succeeded"
    assert taken(bench) == dict.fromkeys(NAMES, 1)


def test_people_can_pause_resume_and_stop_a_batch(desk: Desk) -> None:
    bench = desk.bench
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    for _ in range(2):
        assert bench.runner.run_one()
    assert buttons(desk, batch) == ["batch_pause", "batch_stop"]
    desk.click("batch_pause", batch.id, ASKER)
    assert "Only <@U0OPERATOR> or an approver" in desk.slack.to(ASKER.id)[-1]
    desk.click("batch_pause", batch.id, OPERATOR)
    assert not bench.runner.run_one()
    assert "Paused by" in shown(desk, batch)
    desk.click("batch_pause", batch.id, LEAD)
    assert "was already paused by <@U0OPERATOR>" in desk.slack.to(LEAD.id)[-1]
    desk.click("batch_go_on", batch.id, LEAD)
    assert bench.runner.run_one()
    desk.click("batch_stop", batch.id, LEAD)
    bench.finish()
    ended = again(bench, batch)
    assert (ended.state, ended.ended_by) == ("cancelled", LEAD.id)
    assert Counter(states(bench, batch).values()) == {"succeeded": 2, "cancelled": 4}
    assert "2 of 6 done, 4 not started" in notes(bench, batch)[-1]
    assert "4 not started" in shown(desk, batch)
    desk.click("batch_go_on", batch.id, LEAD)
    assert "was already stopped by <@U0OPSLEAD>" in desk.slack.to(LEAD.id)[-1]
    seen = events(bench, batch)
    assert seen[-4:] == ["batch.paused", "batch.went_on", "batch.stopped", "operation.cancelled"]
    desk.announce()
    said = " ".join(one["text"] for one in desk.slack.said)
    assert "`client-a` —" in said
    assert "`client-f` —" not in said, "a child that never started has no line"


def test_a_running_child_ends_before_its_batch_stops(desk: Desk) -> None:
    bench = desk.bench
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    assert bench.runner.run_one()
    running = claims.claim(bench.context.operations)
    assert running
    desk.click("batch_stop", batch.id, LEAD)
    assert again(bench, batch).state == "running"
    assert "stopping" in shown(desk, batch)
    assert buttons(desk, batch) == []
    recovery.recover(bench.context.operations)
    bench.finish()
    assert again(bench, batch).state == "cancelled"
    assert states(bench, batch)[running.tenant] == "succeeded"


def test_a_retry_runs_while_the_batch_is_paused(desk: Desk) -> None:
    bench = desk.bench
    fail_for(bench, "client-a", "client-b", "client-c")
    batch = bench.done("snapshot --all", OPERATOR)
    bench.lxd.on_call = None
    failed = children(bench, batch)[0]
    desk.click("retry", failed.id, OPERATOR)
    bench.finish()
    assert states(bench, batch)["client-a"] == "succeeded"
    assert states(bench, batch)["client-d"] == "waiting"


def test_history_shows_a_batch_once_and_its_children_only_by_tenant(desk: Desk) -> None:
    bench = desk.bench
    bench.done("snapshot --all", OPERATOR)
    desk.command("history", OPERATOR)
    told = desk.slack.to(OPERATOR.id)[-1]
    history = str([one for one in desk.slack.said if one.get("user") == OPERATOR.id][-1]["blocks"])
    assert "snapshot 6 tenants" in history, told
    assert "snapshot `client-a`" not in history
    desk.command("history client-a", OPERATOR)
    assert "snapshot `client-a`" in str([one for one in desk.slack.said if one.get("user") == OPERATOR.id][-1])


# -- other commands ------------------------------------------------------------------------------------------------


def test_a_batch_restarts_whole_tenants_or_one_part_of_each(desk: Desk) -> None:
    bench = desk.bench
    before = {name: bench.lxd.instance(name).started for name in NAMES}
    bench.clock.move(60)
    batch = bench.done("restart --all", OPERATOR)
    assert batch.state == "succeeded"
    assert bench.lxd.calls["stop"] == 6
    assert all(live(bench, f"{name}.mautic.localhost") for name in NAMES), before
    workers = bench.done("restart client-a,client-b --part worker", OPERATOR)
    assert (workers.state, bench.lxd.calls["stop"]) == ("succeeded", 6)
    assert workers.plan["summary"] == "Restart the mail workers of 2 tenants"


def test_one_request_creates_several_tenants(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, others={"solo": SimulatedLxd()})
    desk = make_desk(bench)
    desk.command("new shop-a,shop-b,shop-c --note spring", ASKER)
    batch = desk.last()
    assert batch.plan["summary"] == "Create 3 tenants"
    bench.approve(batch)
    bench.finish()
    desk.announce()
    assert again(bench, batch).state == "succeeded", [one.outcome for one in children(bench, batch)]
    assert all(live(bench, f"shop-{letter}.mautic.localhost") for letter in "abc")
    for child in children(bench, batch):
        assert buttons(desk, child) == ["reveal"], "the requester can reveal the first credentials"
    assert again(bench, batch).again == "new shop-a,shop-b,shop-c --plan=small --note=spring"


def test_the_text_to_repeat_a_request_parses_to_the_same_arguments(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    batch = bench.ask("new shop-a,shop-b --note 'the boss`s --plan'")
    assert batch.again == """new shop-a,shop-b --plan=small --note="the boss's --plan\""""
    command, arguments = bench.context.registry.parse(batch.again)
    assert (command.name, arguments["note"], arguments["tenant"]) == ("new", "the boss's --plan", "shop-a,shop-b")


def test_the_new_tenants_of_a_batch_have_to_fit_together(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_CAPACITY__TENANTS="2")
    assert len(bench.answer("new shop-a,shop-b").children) == 2
    with pytest.raises(Refused, match="No host has capacity for one more tenant"):
        bench.answer("new shop-a,shop-b,shop-c")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("new shop-a,shop-b --domain m.client.com", "A domain belongs to one tenant"),
        ("new shop-a,client-a", "Tenant `client-a` already exists"),
        ("new shop-a,no_underscore", "can't be a tenant name"),
    ],
)
def test_an_invalid_batch_of_new_tenants_is_refused(desk: Desk, text: str, why: str) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        desk.bench.answer(text)


# -- what Slack does -----------------------------------------------------------------------------------------------


def test_a_line_whose_answer_was_lost_is_found_and_not_posted_twice(desk: Desk) -> None:
    bench = desk.bench
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    desk.announce()
    bench.finish()
    real: Callable[..., Any] = desk.slack.chat_postMessage
    lost = [0]

    def post(**message: Any) -> Any:
        answer = real(**message)
        if "`client-c`" in message["text"] and not lost[0]:
            lost[0] += 1
            raise slack_error("Received a response in a non-JSON format", 503)
        return answer

    desk.slack.chat_postMessage = post  # type: ignore[method-assign]
    for _ in range(3):
        desk.announcer._waiting.clear()
        desk.announce()
    lines = [
        one["text"] for one in desk.slack.said if one["method"] == "chat.postMessage" and "`client-c`" in one["text"]
    ]
    assert (len(lines), lost) == (1, [1])
    assert batches.standing(bench.context.operations, batch.id)


def test_no_line_comes_before_the_card(desk: Desk) -> None:
    bench = desk.bench
    desk.slack.fail("chat.postMessage", "fatal_error")
    bench.done("snapshot --all", OPERATOR)
    desk.announce()
    assert desk.slack.said == []
    desk.announcer._waiting.clear()
    for _ in range(2):
        desk.announce()
    assert not desk.slack.said[0].get("thread_ts")
    assert sum("`client-" in one["text"] for one in desk.slack.said) == 6
