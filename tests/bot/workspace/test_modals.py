"""Modals and the Home tab: opened, changed, pushed, refused, closed."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from slack_bolt import Ack, App
from slack_sdk.errors import SlackApiError

from tests.support.workspace import Workspace, eventually

Connect = Callable[[], object]
Json = dict[str, Any]


def plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}


def modal(title: str, **more: Any) -> Json:
    name = {"type": "plain_text_input", "action_id": "name", "min_length": 3}
    plan = {
        "type": "static_select",
        "action_id": "plan",
        "options": [{"text": plain(value), "value": value} for value in ("small", "large")],
    }
    return {
        "type": "modal",
        "callback_id": "new",
        "title": plain(title),
        "submit": plain("Ask"),
        "blocks": [
            {"type": "input", "block_id": "tenant", "label": plain("Tenant"), "element": name},
            {"type": "input", "block_id": "size", "label": plain("Plan"), "element": plan, "optional": True},
            {
                "type": "actions",
                "block_id": "more",
                "elements": [{"type": "button", "action_id": "more", "text": plain("More")}],
            },
        ],
        **more,
    }


@pytest.fixture
def opening(app: App, connect: Connect, workspace: Workspace) -> App:
    """An app whose command opens the modal; the submitted name selects how the app answers."""

    @app.command("/mautic")
    def open_modal(ack: Ack, command: Json, client: Any) -> None:
        ack()
        client.views_open(trigger_id=command["trigger_id"], view=modal("New", notify_on_close=True))

    @app.view("new")
    def submitted(ack: Ack, view: Json) -> None:
        name = view["state"]["values"]["tenant"]["name"]["value"]
        answers: dict[str, Json] = {
            "bad": {"response_action": "errors", "errors": {"tenant": "Taken."}},
            "again": {"response_action": "update", "view": modal("Changed")},
            "next": {"response_action": "push", "view": modal("Pushed")},
            "clear": {"response_action": "clear"},
            "broken": {"response_action": "update", "view": modal("A title that is much too long")},
        }
        ack(**answers.get(name, {}))

    @app.action("more")
    def push(ack: Ack, body: Json, client: Any) -> None:
        ack()
        client.views_push(trigger_id=body["trigger_id"], view=modal("Pushed"))

    connect()
    return app


def opened(workspace: Workspace, user: str = "operator") -> Json:
    workspace.command(user, "ops", "/mautic new")
    return workspace.wait_for_view(user)


def titles(workspace: Workspace) -> list[str]:
    return [view["title"]["text"] for view in workspace.views("operator")]


def test_a_modal_is_shown_only_to_the_person_who_asked_and_closes_when_submitted(
    opening: App, workspace: Workspace
) -> None:
    view = opened(workspace)
    assert workspace.views("ops-lead") == []
    assert workspace.submit("operator", view["id"], {"name": "client-x", "plan": "large"})["ok"]
    assert workspace.views("operator") == []


def test_the_client_refuses_empty_and_short_fields_by_itself(opening: App, workspace: Workspace) -> None:
    view = opened(workspace)
    assert workspace.submit("operator", view["id"])["errors"] == {"tenant": "Please complete this required field."}
    assert workspace.submit("operator", view["id"], {"tenant": {"name": "x"}})["errors"] == {
        "tenant": "Please use at least 3 characters."
    }


def test_an_ack_can_refuse_update_push_or_clear_a_modal(opening: App, workspace: Workspace) -> None:
    view = opened(workspace)

    assert workspace.submit("operator", view["id"], {"name": "bad"})["errors"] == {"tenant": "Taken."}
    assert titles(workspace) == ["New"]

    workspace.submit("operator", view["id"], {"name": "again"})
    assert titles(workspace) == ["Changed"]

    workspace.submit("operator", view["id"], {"name": "next"})
    assert titles(workspace) == ["Changed", "Pushed"]

    workspace.submit("operator", workspace.views("operator")[-1]["id"], {"name": "clear"})
    assert titles(workspace) == []


def test_an_ack_with_an_invalid_view_shows_an_error(opening: App, workspace: Workspace) -> None:
    view = opened(workspace)
    seen = workspace.submit("operator", view["id"], {"name": "broken"})
    assert seen["error"] == "We had some trouble connecting. Try again?"
    assert titles(workspace) == ["New"]


def test_no_more_than_three_modals_are_stacked(opening: App, workspace: Workspace) -> None:
    opened(workspace)
    for depth in (2, 3):
        workspace.click_in_view("operator", workspace.views("operator")[-1]["id"], "more")
        eventually(lambda depth=depth: len(workspace.views("operator")) == depth)
    top = workspace.views("operator")[-1]
    seen = workspace.submit("operator", top["id"], {"name": "next"})
    assert seen["detail"]["error"] == "push_limit_reached"
    assert len(workspace.views("operator")) == 3


def test_closing_a_modal_notifies_an_app_that_asked_for_it(app: App, opening: App, workspace: Workspace) -> None:
    closed: list[bool] = []

    @app.view_closed("new")
    def on_close(ack: Ack, body: Json) -> None:
        ack()
        closed.append(body["is_cleared"])

    workspace.close("operator", opened(workspace)["id"])
    eventually(lambda: closed == [False])
    assert workspace.views("operator") == []


def test_an_update_with_an_old_hash_is_refused(opening: App, workspace: Workspace) -> None:
    view = opened(workspace)
    client = workspace.web_client()
    client.views_update(view_id=view["id"], hash=view["hash"], view=modal("Second"))
    with pytest.raises(SlackApiError, match="hash_conflict"):
        client.views_update(view_id=view["id"], hash=view["hash"], view=modal("Third"))
    with pytest.raises(SlackApiError, match="not_found"):
        client.views_update(view_id="VNONE", view=modal("Third"))
    assert titles(workspace) == ["Second"]


def test_a_trigger_works_once_and_for_three_seconds(app: App, connect: Connect, workspace: Workspace) -> None:
    triggers: list[str] = []

    @app.command("/mautic")
    def keep(ack: Ack, command: Json) -> None:
        triggers.append(command["trigger_id"])
        ack()

    connect()
    client = workspace.web_client()
    workspace.command("operator", "ops", "/mautic new")
    client.views_open(trigger_id=triggers[0], view=modal("New"))
    with pytest.raises(SlackApiError, match="exchanged_trigger_id"):
        client.views_open(trigger_id=triggers[0], view=modal("New"))
    with pytest.raises(SlackApiError, match="invalid_trigger_id"):
        client.views_open(trigger_id="1.2.3", view=modal("New"))
    workspace.command("operator", "ops", "/mautic new")
    with pytest.raises(SlackApiError, match="invalid_trigger_id"):
        client.views_push(trigger_id=triggers[1], view=modal("New"))  # from no modal

    workspace.command("operator", "ops", "/mautic new")
    time.sleep(3.1)  # the lifetime itself is tested
    with pytest.raises(SlackApiError, match="expired_trigger_id"):
        client.views_open(trigger_id=triggers[2], view=modal("New"))


def test_home_is_published_for_one_person(app: App, connect: Connect, workspace: Workspace) -> None:
    @app.event("app_home_opened")
    def home(event: Json, client: Any) -> None:
        text = {"type": "mrkdwn", "text": f"Welcome <@{event['user']}>"}
        client.views_publish(
            user_id=event["user"], view={"type": "home", "blocks": [{"type": "section", "text": text}]}
        )

    connect()
    assert workspace.home("operator") is None
    workspace.open_home("operator")
    view = eventually(lambda: workspace.home("operator"))
    assert view is not None
    assert view["blocks"][0]["text"]["text"] == "Welcome <@U0OPERATOR>"
    assert workspace.home("ops-lead") is None
