"""Who may act: only full members of the bot's own organisation, with the roles that the settings give them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from slack_sdk import WebClient

from bot.model.plan import Refused
from bot.settings import Role, load
from bot.slack.people import People
from tests.support.bot import ASKER, LEAD, OPERATOR, Clock, FakeSlack, settings_in


@pytest.fixture
def slack() -> FakeSlack:
    return FakeSlack()


@pytest.fixture
def people(slack: FakeSlack, tmp_path: Path) -> People:
    known = People(cast(WebClient, slack), settings_in(tmp_path))
    known.connect()
    return known


def test_roles_come_from_user_groups_by_handle(people: People) -> None:
    assert people.actor(ASKER.id, "T0OURS", "C0OPS").roles == {"requester"}
    assert people.actor(OPERATOR.id, "T0OURS", "C0OPS").roles == {"requester", "operator"}
    assert people.actor(LEAD.id, "T0OURS", "C0OPS").roles == {"requester", "approver"}


def test_roles_come_from_user_ids_where_slacks_plan_has_no_groups(slack: FakeSlack, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    roles = dict(settings.roles) | {"approver": Role([LEAD.id], ["mautic-approvers"], False)}
    people = People(cast(WebClient, slack), replace(settings, roles=roles))
    people.connect()
    slack.fail("usergroups.list", "plan_upgrade_required", times=100)
    assert people.actor(LEAD.id, "T0OURS", "C0OPS").roles == {"requester", "approver"}
    assert people.actor(OPERATOR.id, "T0OURS", "C0OPS").roles == {"requester"}
    assert slack.calls["usergroups.list"] == 1, "what a plan lacks is not requested again and again"


@pytest.mark.parametrize("written", ["@mautic-approvers", "mautic-approvers", "S0MAUTICAPPROVERS"])
def test_a_group_is_found_however_it_is_written(slack: FakeSlack, tmp_path: Path, written: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'[roles.approver]\ngroups = ["{written}"]\n')
    people = People(cast(WebClient, slack), load(file, {}))
    people.connect()
    assert "approver" in people.actor(LEAD.id, "T0OURS", "C0OPS").roles
    assert people.mention(["approver"]) == "<!subteam^S0MAUTICAPPROVERS>"


def test_a_group_id_with_an_unusual_beginning_is_not_taken_for_a_handle(slack: FakeSlack, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    people = People(cast(WebClient, slack), replace(settings, roles={"approver": Role([], ["SAZ94GDB8"], False)}))
    people.connect()
    assert people.actor(LEAD.id, "T0OURS", "C0OPS").roles == frozenset()
    assert (slack.calls["usergroups.list"], slack.calls["usergroups.users.list"]) == (0, 1)


@pytest.mark.parametrize("mark", ["deleted", "is_bot", "is_restricted", "is_ultra_restricted", "is_stranger"])
def test_guests_bots_and_strangers_are_refused(people: People, slack: FakeSlack, mark: str) -> None:
    slack.people["U0GUEST"] = {mark: True}
    with pytest.raises(Refused, match="Guests, bots and people from other organisations"):
        people.actor("U0GUEST", "T0OURS", "C0OPS")


def test_people_of_another_organisation_are_refused_whatever_their_delivery_claims(
    people: People, slack: FakeSlack
) -> None:
    with pytest.raises(Refused, match="our own organisation"):
        people.actor("U0OUTSIDER", "T0OTHER", "C0OPS")
    slack.people["U0OUTSIDER"] = {"team_id": "T0OTHER"}
    with pytest.raises(Refused, match="other organisations"):
        people.actor("U0OUTSIDER", "T0OURS", "C0OPS")


def test_on_enterprise_grid_the_organisation_counts(slack: FakeSlack, tmp_path: Path) -> None:
    slack.auth_test = lambda: {"team_id": "T0OURS", "enterprise_id": "E0OURS"}  # type: ignore[method-assign]
    people = People(cast(WebClient, slack), settings_in(tmp_path))
    people.connect()
    slack.people["W0SISTER"] = {"team_id": "T0SISTER", "enterprise_user": {"enterprise_id": "E0OURS"}}
    slack.people["W0OTHER"] = {"team_id": "T0OTHER", "enterprise_user": {"enterprise_id": "E0OTHER"}}
    assert people.actor("W0SISTER", "E0OURS", "C0OPS").id == "W0SISTER"
    with pytest.raises(Refused):
        people.actor("W0OTHER", "E0OURS", "C0OPS")


def test_a_channel_shared_with_another_organisation_is_refused(people: People, slack: FakeSlack) -> None:
    slack.channels["C0SHARED"] = {"is_ext_shared": True}
    with pytest.raises(Refused, match="shared with another organisation"):
        people.actor(LEAD.id, "T0OURS", "C0SHARED")


def test_a_channel_that_the_bot_cannot_see_is_refused_with_a_hint_to_invite_it(
    people: People, slack: FakeSlack
) -> None:
    slack.fail("conversations.info", "channel_not_found")
    with pytest.raises(Refused, match="/invite"):
        people.actor(LEAD.id, "T0OURS", "C0SECRET")


def test_a_channel_is_accepted_as_soon_as_the_bot_is_invited(people: People, slack: FakeSlack) -> None:
    slack.channels["C0ELSE"] = {"is_member": False}
    with pytest.raises(Refused, match="/invite"):
        people.actor(ASKER.id, "T0OURS", "C0ELSE")
    slack.channels["C0ELSE"] = {"is_member": True}
    assert people.actor(ASKER.id, "T0OURS", "C0ELSE").id == ASKER.id


def test_direct_messages_need_no_look_at_the_channel(people: People, slack: FakeSlack) -> None:
    assert people.actor(LEAD.id, "T0OURS", "D0LEAD").id == LEAD.id
    assert slack.calls["conversations.info"] == 0


@pytest.mark.parametrize("trouble", ["ratelimited", "internal_error", TimeoutError("timed out"), IncompleteRead(b"")])
def test_a_person_is_refused_when_slack_does_not_say_who_they_are(
    people: People, slack: FakeSlack, trouble: Any
) -> None:
    slack.fail("users.info", trouble)
    with pytest.raises(Refused, match="Try again in a minute"):
        people.actor(LEAD.id, "T0OURS", "C0OPS")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("bot.slack.people.time", SimpleNamespace(monotonic=clock))
    return clock


def test_slack_is_asked_afresh_for_a_decision_and_once_a_minute_otherwise(
    people: People, slack: FakeSlack, clock: Clock
) -> None:
    for _ in range(3):
        people.actor(LEAD.id, "T0OURS", "C0OPS")
        clock.move(15)
    assert slack.calls["users.info"] == 1
    slack.groups["mautic-approvers"] = []
    assert people.actor(LEAD.id, "T0OURS", "C0OPS").roles == {"requester", "approver"}
    assert people.actor(LEAD.id, "T0OURS", "C0OPS", fresh=True).roles == {"requester"}


def test_many_decisions_stay_within_slacks_rate_limit(people: People, slack: FakeSlack, clock: Clock) -> None:
    for press in range(120):
        people.actor(f"U0PRESSES{press}", "T0OURS", "C0OPS", fresh=True)
        clock.move(0.5)
    assert slack.calls["usergroups.users.list"] <= 20


def test_simultaneous_decisions_share_one_answer(people: People, slack: FakeSlack) -> None:
    real = slack.api_call

    def slow(method: str, params: dict[str, str]) -> Any:
        time.sleep(0.02)
        return real(method, params)

    slack.api_call = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as presses:
        list(presses.map(lambda n: people.actor(f"U0PRESSES{n}", "T0OURS", "C0OPS", fresh=True), range(8)))
    assert slack.calls["usergroups.users.list"] == 2, "one request per group"


def test_an_answer_from_before_a_group_changed_is_not_kept(people: People, slack: FakeSlack) -> None:
    real = slack.api_call

    def overtaken(method: str, params: dict[str, str]) -> Any:
        answer = real(method, params)
        slack.groups["mautic-approvers"] = []
        people.forget()
        return answer

    slack.api_call = overtaken  # type: ignore[method-assign]
    people.actor(LEAD.id, "T0OURS", "C0OPS", fresh=True)
    slack.api_call = real  # type: ignore[method-assign]
    assert people.actor(LEAD.id, "T0OURS", "C0OPS", fresh=True).roles == {"requester"}


def test_a_changed_group_is_known_at_once(people: People, slack: FakeSlack) -> None:
    people.actor(LEAD.id, "T0OURS", "C0OPS")
    slack.groups["mautic-approvers"] = []
    people.forget()
    assert people.actor(LEAD.id, "T0OURS", "C0OPS").roles == {"requester"}
