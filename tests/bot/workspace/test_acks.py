"""An app that answers late, never or twice: what people see, and what Slack does about it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from slack_bolt import Ack, App, BoltRequest

from tests.support.workspace import Workspace, eventually

Connect = Callable[[], object]


def test_a_command_whose_ack_is_dropped_is_shown_as_not_responding(
    app: App, connect: Connect, workspace: Workspace
) -> None:
    heard: list[str] = []

    @app.command("/mautic")
    def listen(ack: Ack, command: dict[str, Any]) -> None:
        ack()
        heard.append(command["text"])

    connect()
    workspace.faults(drop_acks=1)
    seen = workspace.command("operator", "ops", "/mautic list")

    assert seen["error"] == "/mautic failed because the app did not respond (operation_timeout)"
    assert (seen["ok"], seen["ack_ms"]) == (False, None)
    assert heard == ["list"], "the app did the work nevertheless"
    assert workspace.command("operator", "ops", "/mautic list")["ok"]


def test_an_ack_after_three_seconds_is_too_late(app: App, connect: Connect, workspace: Workspace) -> None:
    @app.command("/mautic")
    def slow(ack: Ack) -> None:
        time.sleep(3.2)
        ack("here I am")

    connect()
    seen = workspace.command("operator", "ops", "/mautic list")
    assert "did not respond" in seen["error"]
    assert workspace.messages("ops", user="operator") == []


def test_a_delayed_ack_is_measured_with_its_delay(app: App, connect: Connect, workspace: Workspace) -> None:
    app.command("/mautic")(lambda ack: ack("fine"))
    connect()
    workspace.faults(late_acks={"count": 1, "seconds": 0.3})

    assert workspace.command("operator", "ops", "/mautic list")["ack_ms"] >= 300


def test_without_an_app_a_command_fails_at_once(workspace: Workspace) -> None:
    seen = workspace.command("operator", "ops", "/mautic list")
    assert seen["error"] == '/mautic failed with the error "dispatch_failed"'


def test_a_press_without_an_ack_times_out(app: App, connect: Connect, workspace: Workspace) -> None:
    app.action("go")(lambda ack: ack())
    connect()
    button = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}}
    ts = app.client.chat_postMessage(channel="C0OPS", text="go", blocks=[{"type": "actions", "elements": [button]}])[
        "ts"
    ]
    workspace.faults(drop_acks=1)
    assert "operation_timeout" in workspace.click("operator", "ops", ts, "go")["error"]


def test_an_event_without_an_ack_is_redelivered_with_the_same_id(
    app: App, connect: Connect, workspace: Workspace
) -> None:
    seen: list[tuple[str, str]] = []

    @app.event("message")
    def listen(request: BoltRequest) -> None:
        seen.append((request.body["event_id"], request.headers.get("x-slack-retry-num", ["0"])[0]))

    connect()
    workspace.faults(drop_acks=2)
    workspace.message("operator", "ops", "anybody there?")

    eventually(lambda: len(seen) == 3)
    assert [attempt for _, attempt in seen] == ["0", "1", "2"]
    assert len({event_id for event_id, _ in seen}) == 1


def test_an_app_that_connects_late_gets_later_events(app: App, connect: Connect, workspace: Workspace) -> None:
    heard: list[str] = []
    app.event("message")(lambda event: heard.append(event["text"]))
    workspace.message("operator", "ops", "first")
    # The retries (here within half a second) may be over before the app connects; then the event is lost.
    connect()
    workspace.message("operator", "ops", "second")
    eventually(lambda: "second" in heard)


def test_redelivery_delivers_the_same_thing_twice(app: App, connect: Connect, workspace: Workspace) -> None:
    triggers: list[str] = []
    event_ids: list[str] = []

    @app.command("/mautic")
    def command(ack: Ack, command: dict[str, Any]) -> None:
        ack()
        triggers.append(command["trigger_id"])

    @app.event("message")
    def message(body: dict[str, Any]) -> None:
        event_ids.append(body["event_id"])

    connect()
    workspace.faults(redeliver=2)
    workspace.command("operator", "ops", "/mautic list")
    workspace.message("operator", "ops", "hello")

    eventually(lambda: len(triggers) == 2 and len(event_ids) == 2)
    assert len(set(triggers)) == 1
    assert len(set(event_ids)) == 1


def test_fifty_commands_at_once_are_all_answered(app: App, connect: Connect, workspace: Workspace) -> None:
    app.command("/mautic")(lambda ack: ack("ok"))
    connect()
    with ThreadPoolExecutor(50) as people:
        seen = list(people.map(lambda n: workspace.command("operator", "ops", f"/mautic list {n}"), range(50)))
    assert all(one["ok"] for one in seen)
    assert len(workspace.messages("ops", user="operator")) == 50
