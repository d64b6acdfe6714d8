"""Who may do and see what: members, guests, people of other organisations."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from slack_bolt import Ack, App
from slack_sdk.errors import SlackApiError

from tests.support.workspace import Workspace, WorkspaceServer, eventually

Connect = Callable[[], object]
Json = dict[str, Any]


def test_payloads_of_an_outsider_name_the_outsiders_team(app: App, connect: Connect, workspace: Workspace) -> None:
    presses: list[Json] = []
    messages: list[Json] = []

    @app.action("go")
    def go(ack: Ack, body: Json) -> None:
        ack()
        presses.append(body)

    @app.event("message")
    def listen(body: Json, context: Any) -> None:
        messages.append({**body, "actor": (context.actor_team_id, context.actor_user_id)})

    connect()
    button = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}}
    ts = app.client.chat_postMessage(channel="C0SHARED", text="go", blocks=[{"type": "actions", "elements": [button]}])[
        "ts"
    ]
    assert workspace.click("outsider", "shared-with-partner", ts, "go")["ok"]
    workspace.message("outsider", "shared-with-partner", "approve", thread_ts=ts)

    eventually(lambda: messages and presses)
    assert presses[0]["user"]["team_id"] == "T0OTHER"
    event = messages[0]["event"]
    assert (event["user_team"], event["source_team"], event["thread_ts"]) == ("T0OTHER", "T0OTHER", ts)
    assert messages[0]["is_ext_shared_channel"] is True
    assert messages[0]["actor"] == ("T0OTHER", "U0OUTSIDER")
    assert app.client.conversations_info(channel="C0SHARED")["channel"]["is_ext_shared"] is True


def test_an_outsider_has_no_commands_and_no_other_channels(workspace: Workspace) -> None:
    assert "not available" in workspace.command("outsider", "shared-with-partner", "/mautic list")["error"]
    assert workspace.command("outsider", "ops", "/mautic list")["error"] == "channel_not_found"
    assert workspace.message("outsider", "ops", "hello")["error"] == "channel_not_found"
    assert workspace.get("messages", channel="ops", user="outsider")["error"] == "channel_not_found"


def test_an_ephemeral_message_is_for_one_person_in_the_channel(workspace: Workspace) -> None:
    client = workspace.web_client()
    client.chat_postEphemeral(channel="C0OPS", user="U0OPERATOR", text="for you")
    assert [m["text"] for m in workspace.messages("ops", user="operator")] == ["for you"]
    assert workspace.messages("ops", user="ops-lead") == []
    with pytest.raises(SlackApiError, match="user_not_in_channel"):
        client.chat_postEphemeral(channel="C0OPS", user="U0OUTSIDER", text="for you")


def test_a_command_is_delivered_with_ids_in_place_of_names(app: App, connect: Connect, workspace: Workspace) -> None:
    app.command("/mautic")(lambda ack, command: ack(f"`{command['text']}`"))
    connect()
    said = workspace.command("operator", "ops", "/mautic new x --note @ops-lead #general <b> & x.example.com")
    assert said["messages"][0]["text"] == (
        "`new x --note <@U0OPSLEAD|ops-lead> <#C0GENERAL|general> &lt;b&gt; &amp; <http://x.example.com|x.example.com>`"
    )


def test_a_mention_is_delivered_as_app_mention_and_as_message(app: App, connect: Connect, workspace: Workspace) -> None:
    heard: list[tuple[str, str, str]] = []
    for kind in ("app_mention", "message"):
        app.event(kind)(lambda event: heard.append((event["type"], event["text"], event["channel"])))
    connect()
    workspace.message("operator", "ops", "@mautic approve 7")
    eventually(lambda: len(heard) == 2)
    assert sorted(heard) == [
        ("app_mention", "<@U0BOT> approve 7", "C0OPS"),
        ("message", "<@U0BOT> approve 7", "C0OPS"),
    ]


def test_direct_messages_with_the_app_are_private(app: App, connect: Connect, workspace: Workspace) -> None:
    heard: list[str] = []

    @app.event("message")
    def listen(event: Json, say: Any) -> None:
        heard.append(event["channel_type"])
        say("hello")

    connect()
    workspace.message("operator", "@mautic", "hi")
    workspace.wait_for_message("@mautic", "hello", user="operator")
    assert heard == ["im"]
    assert workspace.messages("@mautic", user="ops-lead") == []


def test_an_unknown_command_is_refused(workspace: Workspace) -> None:
    assert "/deploy is not a valid command" in workspace.command("operator", "ops", "/deploy")["error"]


def test_user_groups_and_kinds_of_users_are_reported(workspace: Workspace) -> None:
    client = workspace.web_client()
    assert client.usergroups_users_list(usergroup="S0APPROVERS")["users"] == ["U0OPSLEAD", "U0OPSLEAD2"]
    assert client.users_info(user="U0GUEST")["user"]["is_restricted"] is True
    assert client.users_info(user="U0OUTSIDER")["user"]["team_id"] == "T0OTHER"
    groups = {user["name"]: user["groups"] for user in workspace.users()}
    assert groups["ops-lead"] == ["mautic-approvers", "mautic-operators"]
    assert groups["guest"] == []

    workspace.faults(fail={"method": "usergroups.users.list", "error": "plan_upgrade_required"})
    with pytest.raises(SlackApiError, match="plan_upgrade_required"):
        client.usergroups_users_list(usergroup="S0APPROVERS")


def test_a_free_plan_has_no_user_groups(workspace: Workspace) -> None:
    client = workspace.web_client()
    workspace.faults(user_groups=False)
    for _ in range(2):
        with pytest.raises(SlackApiError, match="plan_upgrade_required"):
            client.usergroups_list()
        with pytest.raises(SlackApiError, match="plan_upgrade_required"):
            client.usergroups_users_list(usergroup="S0APPROVERS")


def test_a_channel_without_the_bot_is_marked_and_refuses_messages(workspace: Workspace) -> None:
    client = workspace.web_client()
    assert client.conversations_info(channel="C0OPS")["channel"]["is_member"] is True
    workspace.set_channel("ops", bot=False)
    assert client.conversations_info(channel="C0OPS")["channel"]["is_member"] is False
    with pytest.raises(SlackApiError, match="not_in_channel"):
        client.chat_postMessage(channel="C0OPS", text="x")
    with pytest.raises(SlackApiError, match="channel_not_found"):
        client.conversations_info(channel="#mautic-ops")


def test_an_archived_channel_can_be_read_but_refuses_messages(workspace: Workspace) -> None:
    client = workspace.web_client()
    ts = client.chat_postMessage(channel="C0OPS", text="before")["ts"]
    workspace.set_channel("ops", archived=True)
    assert client.conversations_info(channel="C0OPS")["channel"]["is_archived"] is True
    assert client.conversations_history(channel="C0OPS")["messages"][0]["ts"] == ts
    for post in (client.chat_postMessage, partial(client.chat_postEphemeral, user="U0OPERATOR")):
        with pytest.raises(SlackApiError, match="is_archived"):
            post(channel="C0OPS", text="x")
    with pytest.raises(SlackApiError, match="is_archived"):
        client.files_upload_v2(channel="C0OPS", content="x", filename="x.txt")
    workspace.set_channel("ops")
    assert client.chat_postMessage(channel="C0OPS", text="after")["ok"]


def test_the_app_is_notified_when_a_user_group_changes(app: App, connect: Connect, workspace: Workspace) -> None:
    heard: list[Json] = []
    app.event("subteam_members_changed")(lambda event: heard.append(event))
    connect()
    workspace.set_group("mautic-approvers", ["ops-lead-2", "operator"])
    eventually(lambda: heard)
    assert (heard[0]["added_users"], heard[0]["removed_users"]) == (["U0OPERATOR"], ["U0OPSLEAD"])
    assert app.client.usergroups_users_list(usergroup="S0APPROVERS")["users"] == ["U0OPSLEAD2", "U0OPERATOR"]


def test_a_page_of_another_site_cannot_act_as_a_user(workspace: Workspace) -> None:
    body = b'{"user": "ops-lead", "channel": "ops", "text": "approve"}'
    headers = {"Origin": "https://elsewhere.test"}
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(urllib.request.Request(f"{workspace.url}/_control/message", body, headers))
    refused.value.close()
    assert workspace.messages("ops") == []


@pytest.mark.parametrize("what", ["_control/message", "_control/users", "api/auth.test", "link/?ticket=1", ""])
def test_a_request_under_a_foreign_host_name_is_refused(workspace: Workspace, what: str) -> None:
    """DNS rebinding: evil.test resolves to this machine by now, so the browser sees its page as the same origin."""
    headers = {"Host": "evil.test:8765", "Origin": "http://evil.test:8765"}
    body = b'{"user": "ops-lead", "channel": "ops", "text": "approve"}' if "message" in what else None
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(urllib.request.Request(f"{workspace.url}/{what}", body, headers))
    assert b"not called that" in refused.value.read()
    refused.value.close()
    assert workspace.messages("ops") == []


@pytest.mark.parametrize("name", ["localhost", "localhost:9000", "[::1]:8765", "127.0.0.1"])
def test_names_of_this_machine_are_accepted_with_any_port(workspace: Workspace, name: str) -> None:
    asked = urllib.request.Request(f"{workspace.url}/_control/users", headers={"Host": name})
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["ok"]


def test_another_host_name_can_be_allowed(tmp_path: Path) -> None:
    server = WorkspaceServer(tmp_path, "--allow-host", "chat.example.com")
    try:
        asked = urllib.request.Request(f"{server.url}/_control/users", headers={"Host": "chat.example.com"})
        with urllib.request.urlopen(asked) as answer:
            assert json.load(answer)["ok"]
    finally:
        server.kill()


def test_colleagues_are_ordinary_people_without_a_group(tmp_path: Path) -> None:
    server = WorkspaceServer(tmp_path, "--colleagues", "2")
    try:
        assert [user["name"] for user in server.users()][-2:] == ["colleague-1", "colleague-2"]
        assert server.message("colleague-2", "ops", "hello")["ok"]
        client = server.web_client()
        assert client.chat_postEphemeral(channel="C0OPS", user="U0COLLEAGUE1", text="hello")["ok"]
        for group in client.usergroups_list(include_users=True)["usergroups"]:
            assert not {"U0COLLEAGUE1", "U0COLLEAGUE2"} & set(group["users"])
    finally:
        server.kill()


def test_an_action_that_is_impossible_in_slack_is_a_bad_request(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="nobody called 'stranger'"):
        workspace.message("stranger", "ops", "hello")
    with pytest.raises(ValueError, match="no channel called 'nowhere'"):
        workspace.get("messages", channel="nowhere")
    with pytest.raises(ValueError, match="no fault 'earthquake'"):
        workspace.faults(earthquake=1)
