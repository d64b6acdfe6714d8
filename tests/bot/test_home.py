"""The Home tab: each person has their own, decides on requests there, and strangers see nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bot.lxd.protocol import LxdUnavailable
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.labels import as_labels
from bot.slack.incidents import Seen
from bot.workspace import block_kit
from tests.support.bot import ASKER, LEAD, OPERATOR, Desk, add_blueprint, make_bench, make_desk
from tests.support.judge import mrkdwn
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    other = SimulatedLxd()
    add_blueprint(other)
    return make_desk(make_bench(tmp_path, others={"other": other}))


def shown(desk: Desk, user: str, team: str = "T0OURS") -> str:
    """Open a person's Home tab; return all its text."""
    desk.invocations.handle("home", uuid4().hex, {"user": user, "team": team})
    return said(desk, user)


def said(desk: Desk, user: str) -> str:
    headers = [block["text"]["text"] for block in desk.slack.homes[user] if block["type"] == "header"]
    return "\n".join([*headers, *mrkdwn(desk.slack.homes[user])])


def buttons(desk: Desk, user: str) -> list[tuple[str, str]]:
    rows = [block["elements"] for block in desk.slack.homes[user] if block["type"] == "actions"]
    return [(one["action_id"], one["value"]) for row in rows for one in row]


def test_a_request_waits_only_for_those_who_may_decide_on_it(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x --note 'for the spring'")
    lead = shown(desk, LEAD.id)
    assert "1 request to decide" in lead
    assert "for the spring" in lead
    assert buttons(desk, LEAD.id) == [("approve", operation.mark), ("deny", operation.mark)]
    for other in (ASKER, OPERATOR):
        assert "Nothing needs you" in shown(desk, other.id)
        assert buttons(desk, other.id) == []
    assert "*Waiting for others*\n#1 · Create tenant client-x" in said(desk, OPERATOR.id)
    assert "*Waiting for others*" not in said(desk, ASKER.id), "the requester sees it only once"
    assert "*Your requests*\n#1 · Create tenant client-x · *waiting for approval*" in said(desk, ASKER.id)


def test_a_decision_is_made_in_the_tab_and_the_tab_is_updated(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    shown(desk, LEAD.id)
    desk.click("approve", operation.id, home=True)
    assert desk.bench.context.operations.get(operation.id).state == "queued"
    assert "Nothing needs you" in said(desk, LEAD.id)
    assert desk.slack.said == [], "nothing is said in a channel"


def test_a_refused_click_is_explained_in_a_window(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    shown(desk, LEAD.id)
    desk.bench.context.approvals.cancel(operation.id, ASKER)
    desk.click("approve", operation.id, home=True)
    assert f"Request #{operation.id} was cancelled." in mrkdwn(desk.slack.views[-1]["blocks"])[0]
    assert "Nothing needs you" in said(desk, LEAD.id)


def test_the_tab_asks_for_the_typed_name_too(desk: Desk) -> None:
    desk.bench.done("new client-x")
    operation = desk.bench.ask("delete client-x", OPERATOR)
    desk.click("approve", operation.id, home=True)
    assert desk.slack.views[-1]["callback_id"] == "typed_name"
    assert desk.bench.context.operations.get(operation.id).state == "awaiting_approval"


def test_a_wrong_typed_name_is_reported_to_the_person(desk: Desk) -> None:
    desk.bench.done("new client-x")
    operation = desk.bench.ask("delete client-x", OPERATOR)
    desk.click("approve", operation.id, home=True)
    desk.submit("typed_name", json.loads(desk.slack.views[-1]["private_metadata"]), LEAD, name="client-y")
    assert "add the tenant name" in desk.slack.to(LEAD.id)[-1]


def test_a_refusal_that_is_too_late_for_a_window_is_sent_directly(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    desk.bench.context.approvals.cancel(operation.id, ASKER)
    desk.slack.fail("views.open", "expired_trigger_id")
    desk.click("approve", operation.id, home=True)
    assert f"Request #{operation.id} was cancelled." in desk.slack.to(LEAD.id)[-1]


def test_the_tab_shows_the_fleet_and_its_problems(desk: Desk) -> None:
    bench = desk.bench
    for name in ("client-x", "client-y", "client-z"):
        bench.done(f"new {name} --host local")
    bench.done("delete client-z", OPERATOR)
    bench.lxd.update("client-y", as_labels(state="suspended"))
    assert ":white_check_mark: *All healthy*" in shown(desk, LEAD.id)
    with bench.context.database.transaction() as transaction:
        bench.context.incidents.judge(
            transaction, Seen({"client-x": Diagnosis((Finding("cron", "No job ran for 40 min."),))}, {})
        )
    bench.context.jobs.pause("expiry", LEAD.id)
    other = bench.context.fleet.servers["other"]
    assert isinstance(other, SimulatedLxd)
    other.fail_next("instances", LxdUnavailable("The server `other` does not answer."))
    text = shown(desk, LEAD.id)
    assert "Tenants: 1 degraded, 1 suspended, 1 archived" in text
    assert ":red_circle: *client-x:* cron down since" in text
    assert ":satellite: *other does not answer:* The server `other` does not answer." in text
    assert f":gear: *Background job “expiry”* is paused by <@{LEAD.id}>" in text
    assert "routes" not in text, "a job that works is not named"


def test_the_tab_does_not_say_all_healthy_while_a_job_is_paused_or_hangs(desk: Desk) -> None:
    jobs = desk.bench.context.jobs
    jobs.pause("health", LEAD.id)
    jobs.begin("purge")
    desk.bench.clock.move(3600)
    text = shown(desk, LEAD.id)
    assert "All healthy" not in text
    assert ":gear: *Background job “health”* is paused" in text
    assert ":gear: *Background job “purge”* hangs" in text


@pytest.mark.parametrize(
    ("profile", "team"),
    [({"is_restricted": True}, "T0OURS"), ({"is_ultra_restricted": True}, "T0OURS"), ({}, "T0HERS")],
)
def test_a_guest_or_stranger_sees_nothing_of_the_fleet(desk: Desk, profile: dict[str, Any], team: str) -> None:
    desk.bench.done("new client-x")
    desk.slack.people["U0GUEST"] = profile
    text = shown(desk, "U0GUEST", team)
    assert ":no_entry:" in text
    assert "client-x" not in text
    assert "running" not in text


def test_an_unexpected_error_is_shown_in_the_tab(desk: Desk) -> None:
    desk.bench.lxd.fail_next("instances", RuntimeError("secret-of-the-house"))
    assert ":no_entry: Something unexpected happened (error " in shown(desk, LEAD.id)


def test_a_long_tab_stays_within_slacks_limits(desk: Desk) -> None:
    for number in range(40):
        desk.bench.ask(f"new client-{number} --note '{'x' * 190}'", ASKER if number % 2 else LEAD)
    desk.invocations.home(LEAD.id, "T0OURS")
    assert len(desk.slack.homes[LEAD.id]) < block_kit.VIEW_BLOCKS
    assert "20 requests to decide" in said(desk, LEAD.id)
    assert "and 12 more, see their cards in the channels" in said(desk, LEAD.id)
