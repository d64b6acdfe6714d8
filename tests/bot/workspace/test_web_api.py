"""The Web API refuses what Slack refuses, with Slack's codes."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

from tests.support.workspace import Workspace, WorkspaceServer

Json = dict[str, Any]


@pytest.fixture
def client(workspace: Workspace) -> WebClient:
    return workspace.web_client()


def test_auth_test_and_team_info_identify_the_bot(client: WebClient) -> None:
    answer = client.auth_test()
    assert (answer["team_id"], answer["user_id"], answer["bot_id"]) == ("T0LOCAL", "U0BOT", "B0BOT")
    assert "chat:write" in answer.headers["x-oauth-scopes"]
    assert client.team_info()["team"]["name"] == "Local workspace"


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("chat.nonsense", {}, "unknown_method"),
        ("chat.postMessage", {"text": "x"}, "invalid_arguments"),
        ("chat.postMessage", {"channel": "C0NONE", "text": "x"}, "channel_not_found"),
        ("chat.postMessage", {"channel": "C0OPS", "text": " "}, "no_text"),
        ("chat.postMessage", {"channel": "C0OPS", "text": "x", "thread_ts": "1.2"}, "thread_not_found"),
        ("chat.postMessage", {"channel": "C0OPS", "blocks": "{"}, "invalid_blocks_format"),
        ("chat.postMessage", {"channel": "C0OPS", "blocks": {"type": "divider"}}, "invalid_blocks_format"),
        ("chat.postMessage", {"channel": "C0OPS", "attachments": [{}] * 101}, "too_many_attachments"),
        ("chat.update", {"channel": "C0OPS", "ts": "1.2", "text": "x"}, "message_not_found"),
        ("chat.delete", {"channel": "C0OPS", "ts": "1.2"}, "message_not_found"),
        ("chat.getPermalink", {"channel": "C0OPS", "message_ts": "1.2"}, "message_not_found"),
        ("conversations.replies", {"channel": "C0OPS", "ts": "1.2"}, "thread_not_found"),
        ("conversations.history", {"channel": "C0OPS", "limit": 5000}, "invalid_limit"),
        ("conversations.history", {"channel": "C0OPS", "oldest": "yesterday"}, "invalid_ts_oldest"),
        ("users.info", {"user": ["U0GUEST"]}, "invalid_arguments"),
        ("views.open", {"trigger_id": {"id": 1}, "view": {}}, "invalid_arguments"),
        ("chat.postMessage", {"channel": "C0OPS", "text": True}, "invalid_arguments"),
        ("conversations.info", {"channel": "C0NONE"}, "channel_not_found"),
        ("conversations.open", {}, "users_list_not_supplied"),
        ("users.info", {"user": "U0NOBODY"}, "user_not_found"),
        ("users.lookupByEmail", {"email": "nobody@local.test"}, "users_not_found"),
        ("usergroups.users.list", {"usergroup": "S0NONE"}, "no_such_subteam"),
        ("views.publish", {"user_id": "U0OPERATOR", "view": {"type": "modal"}}, "invalid_arguments"),
        ("views.open", {"trigger_id": "1.2.3"}, "invalid_arguments"),
        ("reactions.add", {"channel": "C0OPS", "timestamp": "1.2", "name": "no spaces"}, "invalid_name"),
        ("files.completeUploadExternal", {"files": [{"id": "F0NONE"}]}, "file_not_found"),
    ],
)
def test_each_refusal_has_slacks_error_code(client: WebClient, method: str, arguments: Json, error: str) -> None:
    with pytest.raises(SlackApiError) as refused:
        client.api_call(method, json=arguments)
    assert refused.value.response["error"] == error


def test_a_missing_argument_is_named(client: WebClient) -> None:
    with pytest.raises(SlackApiError) as refused:
        client.api_call("chat.postMessage", json={"text": "x"})
    assert refused.value.response["response_metadata"]["messages"] == ["[ERROR] missing required field: channel"]


def test_form_and_json_bodies_are_equivalent(client: WebClient) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "hello"}}]
    as_json = client.api_call("chat.postMessage", json={"channel": "C0OPS", "blocks": blocks})
    as_form = client.api_call("chat.postMessage", data={"channel": "C0OPS", "blocks": json.dumps(blocks)})
    assert as_json["message"]["blocks"][0]["text"] == as_form["message"]["blocks"][0]["text"]


def test_an_update_with_text_alone_removes_the_blocks(client: WebClient, workspace: Workspace) -> None:
    blocks = [{"type": "divider", "block_id": "line"}]
    ts = client.chat_postMessage(channel="C0OPS", text="old", blocks=blocks)["ts"]

    client.chat_update(channel="C0OPS", ts=ts, text="new", blocks=blocks)
    assert workspace.messages("ops")[0]["blocks"] == blocks

    client.chat_update(channel="C0OPS", ts=ts, text="newer")
    message = workspace.messages("ops")[0]
    assert (message["text"], "blocks" in message, "edited" in message) == ("newer", False, True)

    with pytest.raises(SlackApiError, match="msg_too_long"):
        client.chat_update(channel="C0OPS", ts=ts, text="x" * 4001)


def test_the_bot_can_change_only_its_own_messages(client: WebClient, workspace: Workspace) -> None:
    ts = workspace.message("operator", "ops", "mine")["ts"]
    with pytest.raises(SlackApiError, match="cant_update_message"):
        client.chat_update(channel="C0OPS", ts=ts, text="yours")
    with pytest.raises(SlackApiError, match="cant_delete_message"):
        client.chat_delete(channel="C0OPS", ts=ts)


def test_text_is_cut_at_40000_characters(client: WebClient) -> None:
    answer = client.api_call("chat.postMessage", json={"channel": "C0OPS", "text": "x" * 40_001})
    assert len(answer["message"]["text"]) == 40_000


def test_threads_count_their_replies(client: WebClient, workspace: Workspace) -> None:
    root = workspace.message("operator", "ops", "question")["ts"]
    first = client.chat_postMessage(channel="C0OPS", text="one", thread_ts=root)["ts"]
    # A reply to a reply is a reply to the root.
    second = client.chat_postMessage(channel="C0OPS", text="two", thread_ts=first)["ts"]

    replies = client.conversations_replies(channel="C0OPS", ts=second)["messages"]
    assert [m["text"] for m in replies] == ["question", "one", "two"]
    assert (replies[0]["reply_count"], replies[0]["latest_reply"]) == (2, second)
    assert len(client.conversations_history(channel="C0OPS")["messages"]) == 1

    client.chat_delete(channel="C0OPS", ts=second)
    assert workspace.messages("ops")[0]["reply_count"] == 1
    link = client.chat_getPermalink(channel="C0OPS", message_ts=first)["permalink"]
    assert link.startswith(f"{workspace.url}/archives/C0OPS/p{first.replace('.', '')}?thread_ts={root}")


def test_history_comes_in_pages(client: WebClient) -> None:
    sent = [client.chat_postMessage(channel="C0OPS", text=str(n))["ts"] for n in range(5)]
    seen: list[str] = []
    for page in client.conversations_history(channel="C0OPS", limit=2):
        seen += [m["ts"] for m in page["messages"]]
    assert seen == sent[::-1]
    newer = client.conversations_history(channel="C0OPS", oldest=sent[2])["messages"]
    assert [m["ts"] for m in newer] == [sent[4], sent[3]]


def test_a_reaction_is_added_and_removed_once(client: WebClient, workspace: Workspace) -> None:
    ts = workspace.message("operator", "ops", "nice")["ts"]
    client.reactions_add(channel="C0OPS", timestamp=ts, name="eyes")
    assert workspace.messages("ops")[0]["reactions"] == [{"name": "eyes", "users": ["U0BOT"], "count": 1}]
    with pytest.raises(SlackApiError, match="already_reacted"):
        client.reactions_add(channel="C0OPS", timestamp=ts, name="eyes")
    client.reactions_remove(channel="C0OPS", timestamp=ts, name="eyes")
    with pytest.raises(SlackApiError, match="no_reaction"):
        client.reactions_remove(channel="C0OPS", timestamp=ts, name="eyes")


def test_channels_members_groups_and_users_are_listed(client: WebClient) -> None:
    assert {c["name"] for c in client.conversations_list()["channels"]} >= {"mautic-ops", "general"}
    assert "U0OUTSIDER" in client.conversations_members(channel="C0SHARED")["members"]
    assert "U0OUTSIDER" not in client.conversations_members(channel="C0OPS")["members"]
    assert {g["handle"] for g in client.usergroups_list(include_users=True)["usergroups"]} == {
        "mautic-approvers",
        "mautic-operators",
    }
    assert len(client.users_list()["members"]) == 7
    dm = client.conversations_open(users="U0OPERATOR")["channel"]["id"]
    assert client.chat_postMessage(channel="U0OPERATOR", text="psst")["channel"] == dm


def test_a_file_is_shared_into_a_thread(client: WebClient, workspace: Workspace) -> None:
    root = workspace.message("operator", "ops", "a chart, please")["ts"]
    picture = b"\x89PNG\r\n\x1a\n" + bytes(20)
    client.files_upload_v2(
        channel="C0OPS",
        thread_ts=root,
        filename="chart.png",
        title="Disk",
        content=picture,
        initial_comment="here",
    )

    shared = workspace.messages("ops", thread_ts=root)[1]
    assert (shared["text"], shared["files"][0]["title"]) == ("here", "Disk")
    assert shared["files"][0]["mimetype"] == "image/png"
    with urllib.request.urlopen(shared["files"][0]["url_private"]) as answer:
        assert (answer.headers["Content-Type"], answer.read()) == ("image/png", picture)


def test_a_picture_in_a_block_must_have_been_uploaded(client: WebClient) -> None:
    file = client.files_upload_v2(filename="chart.png", content=b"\x89PNG\r\n\x1a\n")["files"][0]

    def block(**slack_file: str) -> dict[str, object]:
        return {"type": "image", "alt_text": "Disk", "slack_file": slack_file}

    for named in ({"id": file["id"]}, {"url": file["permalink"]}):
        client.chat_postMessage(channel="C0OPS", text="chart", blocks=[block(**named)])
    for wrong in ({"id": "F0NONE"}, {"id": file["id"], "url": file["permalink"]}):
        with pytest.raises(SlackApiError, match="invalid slack file"):
            client.chat_postMessage(channel="C0OPS", text="chart", blocks=[block(**wrong)])


def _repeatedly(times: int, call: Callable[..., object], **arguments: str) -> None:
    for _ in range(times):
        call(**arguments)


def test_posting_is_limited_to_one_message_per_second_and_channel_after_a_burst(
    client: WebClient, workspace: Workspace
) -> None:
    with pytest.raises(SlackApiError) as refused:
        _repeatedly(50, client.chat_postMessage, channel="C0OPS", text="again")
    assert refused.value.response["error"] == "ratelimited"
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    client.chat_postMessage(channel="C0GENERAL", text="another channel is not concerned")

    workspace.faults(limits=False)
    _repeatedly(20, client.chat_postMessage, channel="C0OPS", text="again")


def test_methods_have_separate_rate_limits(client: WebClient) -> None:
    with pytest.raises(SlackApiError, match="ratelimited"):
        _repeatedly(40, client.users_list)
    client.users_info(user="U0GUEST")


def test_a_rate_limit_can_be_injected_and_the_sdk_waits_for_it(workspace: Workspace) -> None:
    workspace.faults(rate_limit={"method": "chat.postMessage", "count": 1, "retry_after": 1})
    patient = workspace.web_client(retry_handlers=[RateLimitErrorRetryHandler(max_retry_count=1)])
    assert patient.chat_postMessage(channel="C0OPS", text="hello")["ok"]
    assert len(workspace.messages("ops")) == 1


def test_an_outage_of_slack_can_be_injected_and_reset(client: WebClient, workspace: Workspace) -> None:
    workspace.faults(api_down=1)
    with pytest.raises(SlackApiError) as refused:
        client.chat_postMessage(channel="C0OPS", text="hello")
    assert refused.value.response.status_code == 503
    assert client.chat_postMessage(channel="C0OPS", text="hello")["ok"]

    workspace.faults(api_down=5)
    workspace.faults(reset=True)
    assert client.auth_test()["ok"]


def test_the_manifest_limits_scopes_commands_and_direct_messages(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    slash = {"command": "/mautic", "description": "Tenants", "usage_hint": "[help]"}
    manifest.write_text(
        json.dumps(
            {
                "features": {"slash_commands": [slash], "app_home": {"messages_tab_enabled": False}},
                "oauth_config": {"scopes": {"bot": ["channels:history", "chat:write", "im:write"]}},
                "settings": {"event_subscriptions": {"bot_events": ["app_mention"]}},
            }
        )
    )
    commands = tmp_path / "commands.json"
    server = WorkspaceServer(tmp_path / "w", "--manifest", str(manifest), "--commands", str(commands))
    try:
        with pytest.raises(SlackApiError, match="missing_scope"):
            server.web_client().users_list()
        direct = server.web_client().conversations_open(users="U0OPERATOR")["channel"]["id"]
        assert server.web_client().conversations_history(channel="C0OPS")["ok"]
        with pytest.raises(SlackApiError, match="im:history"):
            server.web_client().conversations_history(channel=direct)
        with pytest.raises(SlackApiError, match="messages_tab_disabled"):
            server.web_client().chat_postMessage(channel="U0OPERATOR", text="hello")
        assert server.get("commands")["commands"] == [{**slash, "subcommands": []}]
        commands.write_text('[{"name": "list", "usage": "list", "summary": "All tenants"}]')
        assert server.get("commands")["commands"][0]["subcommands"][0]["name"] == "list"
    finally:
        server.stop()


def test_a_token_in_the_url_is_not_accepted(workspace: Workspace) -> None:
    request = urllib.request.Request(f"{workspace.api_url}users.list?token=xoxb-local")
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["error"] == "not_authed"


@pytest.mark.parametrize("method", ["chat.postMessage", "views.publish", "conversations.open", "auth.test"])
def test_a_method_that_changes_something_accepts_post_only(workspace: Workspace, method: str) -> None:
    request = urllib.request.Request(
        f"{workspace.api_url}{method}?channel=C0OPS&text=hello", headers={"Authorization": "Bearer xoxb-local"}
    )
    with pytest.raises(urllib.error.HTTPError, match="405") as refused:
        urllib.request.urlopen(request)
    refused.value.close()
    assert workspace.messages("ops") == []
