"""The main path: a command, a card, a press, an edit, a reply in the thread."""

from collections.abc import Callable
from typing import Any

from slack_bolt import Ack, App, Say

from tests.support.workspace import Workspace, eventually

APPROVE = {
    "type": "actions",
    "block_id": "decision",
    "elements": [
        {
            "type": "button",
            "action_id": "approve",
            "text": {"type": "plain_text", "text": "Approve"},
            "value": "R1",
            "style": "primary",
        }
    ],
}


def test_from_a_slash_command_to_a_reply_in_the_thread(
    app: App, connect: Callable[[], object], workspace: Workspace
) -> None:
    @app.command("/mautic")
    def card(ack: Ack, say: Say, command: dict[str, Any]) -> None:
        ack()
        section = {"type": "section", "text": {"type": "mrkdwn", "text": f"Plan: {command['text']}"}}
        say(text="A plan", blocks=[section, APPROVE])

    @app.action("approve")
    def approve(ack: Ack, body: dict[str, Any], client: Any) -> None:
        ack()
        channel, ts = body["channel"]["id"], body["message"]["ts"]
        client.chat_update(channel=channel, ts=ts, text=f"Approved by <@{body['user']['id']}>", blocks=[])
        client.chat_postMessage(channel=channel, thread_ts=ts, text=f"{body['actions'][0]['value']} is live")

    connect()
    seen = workspace.command("operator", "ops", "/mautic new client-x")
    assert seen["ok"]
    assert 0 < seen["ack_ms"] < 3000

    plan = workspace.wait_for_message("ops", "Plan: new client-x")
    assert workspace.click("ops-lead", "ops", plan["ts"], "approve")["ok"]

    live = workspace.wait_for_message("ops", "R1 is live", thread_ts=plan["ts"])
    root = workspace.messages("ops")[0]
    assert root["text"] == "Approved by <@U0OPSLEAD>"
    assert "blocks" not in root
    assert (root["reply_count"], root["latest_reply"]) == (1, live["ts"])


def test_a_reply_sent_to_the_channel_too_and_one_with_a_file_reach_the_app(
    app: App, connect: Callable[[], object], workspace: Workspace
) -> None:
    heard: list[dict[str, Any]] = []
    app.event("message")(lambda event: heard.append(event))
    connect()
    ts = app.client.chat_postMessage(channel="C0OPS", text="A plan")["ts"]

    workspace.message("ops-lead", "ops", "approve", thread_ts=ts, broadcast=True)
    workspace.message("ops-lead", "ops", "deny", thread_ts=ts, file="screen shot.png")

    def of_people() -> dict[str, dict[str, Any]]:
        return {event.get("subtype", ""): event for event in heard if not event.get("bot_id")}

    eventually(lambda: {"thread_broadcast", "message_changed", "file_share"} <= set(of_people()))
    said = of_people()
    broadcast, again, with_file = said["thread_broadcast"], said["message_changed"], said["file_share"]
    assert (broadcast["text"], broadcast["thread_ts"], broadcast["root"]["ts"]) == ("approve", ts, ts)
    assert (again["message"]["ts"], again["message"]["subtype"]) == (broadcast["ts"], "thread_broadcast")
    assert (with_file["text"], with_file["files"][0]["name"]) == ("deny", "screen_shot.png")
    assert [one["text"] for one in workspace.messages("ops")] == ["A plan", "approve"], "the channel shows it too"
    assert [one["text"] for one in workspace.messages("ops", thread_ts=ts)] == ["A plan", "approve", "deny"]


def test_an_edited_message_arrives_as_changed_and_its_mention_arrives_separately(
    app: App, connect: Callable[[], object], workspace: Workspace
) -> None:
    heard: list[dict[str, Any]] = []
    app.event("message")(lambda event: heard.append(event))
    app.event("app_mention")(lambda event: heard.append(event))
    connect()
    ts = workspace.message("ops-lead", "ops", "looks fine")["ts"]
    assert workspace.edit("operator", "ops", ts, "mine")["error"] == "cant_update_message"
    workspace.edit("ops-lead", "ops", ts, "@mautic approve")

    eventually(lambda: len(heard) == 3)
    changed = next(event for event in heard if event.get("subtype") == "message_changed")
    mention = next(event for event in heard if event["type"] == "app_mention")
    assert (changed["previous_message"]["text"], changed["message"]["text"]) == ("looks fine", "<@U0BOT> approve")
    assert (mention["ts"], mention["text"]) == (ts, "<@U0BOT> approve")
    assert mention["edited"]["user"] == changed["message"]["edited"]["user"] == "U0OPSLEAD"
