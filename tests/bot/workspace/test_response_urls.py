"""response_url: private by default, five uses, and what it can do to the message it came from."""

from collections.abc import Callable
from typing import Any

import pytest
from slack_bolt import Ack, App
from slack_sdk.webhook import WebhookClient

from tests.support.workspace import Workspace

Json = dict[str, Any]


@pytest.fixture
def pressed(app: App, connect: Callable[[], object], workspace: Workspace) -> tuple[str, WebhookClient]:
    """The ts of a card in #mautic-ops that `operator` pressed, and the response_url of that press."""
    urls: list[str] = []

    @app.action("go")
    def go(ack: Ack, body: Json) -> None:
        urls.append(body["response_url"])
        ack()

    connect()
    button = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}}
    blocks = [{"type": "actions", "elements": [button]}]
    ts = str(app.client.chat_postMessage(channel="C0OPS", text="card", blocks=blocks)["ts"])
    workspace.click("operator", "ops", ts, "go")
    return ts, WebhookClient(urls[0])


def test_a_response_url_works_five_times(pressed: tuple[str, WebhookClient], workspace: Workspace) -> None:
    _, response = pressed
    answers = [response.send(text=f"answer {number}") for number in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [404]
    assert "used_url" in answers[5].body
    assert len(workspace.messages("ops", user="operator")) == 6  # the card and five answers


def test_a_response_is_shown_to_one_person_unless_it_is_in_channel(
    pressed: tuple[str, WebhookClient], workspace: Workspace
) -> None:
    _, response = pressed
    response.send(text="for you")
    response.send(text="for all", response_type="in_channel")

    def seen_by(user: str) -> list[str]:
        return [message["text"] for message in workspace.messages("ops", user=user)]

    assert seen_by("operator") == ["card", "for you", "for all"]
    assert seen_by("ops-lead") == ["card", "for all"]
    assert seen_by("") == ["card", "for all"]


def test_a_response_can_reply_in_a_thread_and_replace_or_delete_its_message(
    pressed: tuple[str, WebhookClient], workspace: Workspace
) -> None:
    ts, response = pressed
    response.send_dict({"text": "in the thread", "response_type": "in_channel", "thread_ts": ts})
    assert [m["text"] for m in workspace.messages("ops", thread_ts=ts)] == ["card", "in the thread"]

    response.send(text="done", replace_original=True)
    root = workspace.messages("ops")[0]
    assert (root["text"], "blocks" in root) == ("done", False)

    response.send(delete_original=True)
    assert workspace.messages("ops") == []


def test_an_invalid_response_is_refused(pressed: tuple[str, WebhookClient]) -> None:
    _, response = pressed
    assert "no_text" in response.send(text="").body
    assert "invalid_blocks" in response.send(blocks=[{"type": "divider", "colour": "red"}]).body
