"""Connections: told to leave, cut, several at once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from slack_bolt import Ack, App
from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode.websocket_client import SocketModeClient

from bot.listeners import SocketMode
from tests.support.bot import settings_in
from tests.support.workspace import APP_TOKEN, Workspace, eventually

Connect = Callable[[], Any]


@pytest.mark.parametrize("reason", ["refresh_requested", "warning", "hard"])
def test_an_app_comes_back_after_a_disconnect(app: App, connect: Connect, workspace: Workspace, reason: str) -> None:
    app.command("/mautic")(lambda ack: ack("still here"))
    connect()

    workspace.faults(disconnect=reason)
    eventually(lambda: _answered(workspace), 60)


def _answered(workspace: Workspace) -> bool:
    return bool(workspace.command("operator", "ops", "/mautic list")["ok"])


def test_the_bot_takes_its_leave_at_once(app: App, workspace: Workspace, tmp_path: Path) -> None:
    """It may wait a ping interval of 10 s for a socket that it closed itself, and be killed before it has drained."""
    for _ in range(3):
        mode = SocketMode(app, replace(settings_in(tmp_path).slack, app_token=APP_TOKEN))
        mode.connect()
        began = time.monotonic()
        mode.close()
        assert time.monotonic() - began < 8


def test_the_bot_opens_one_connection(
    app: App, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slack lets an app open few in a minute, and would deliver into one that is about to be closed."""
    opened: list[str] = []
    real = SocketModeClient.issue_new_wss_url
    monkeypatch.setattr(SocketModeClient, "issue_new_wss_url", lambda client: opened.append(real(client)) or opened[-1])
    mode = SocketMode(app, replace(settings_in(tmp_path).slack, app_token=APP_TOKEN))
    mode.connect()
    mode.close()
    assert len(opened) == 1


def test_each_envelope_goes_to_one_connection_in_turn(app: App, connect: Connect, workspace: Workspace) -> None:
    heard: list[str] = []

    @app.command("/mautic")
    def listen(ack: Ack, command: dict[str, Any]) -> None:
        ack()
        heard.append(command["text"])

    first, second = connect(), connect()
    taken = {first: 0, second: 0}
    for handler in (first, second):

        def count(client: Any, message: dict[str, Any], raw: str | None, handler: Any = handler) -> None:
            taken[handler] += message.get("type") == "slash_commands"

        handler.client.message_listeners.append(count)
    for number in range(4):
        workspace.command("operator", "ops", f"/mautic {number}")

    eventually(lambda: sorted(taken.values()) == [2, 2])
    eventually(lambda: sorted(heard) == ["0", "1", "2", "3"])


def test_hello_says_how_many_connections_there_are(app: App, connect: Connect, workspace: Workspace) -> None:
    async def second_hello() -> dict[str, Any]:
        url = workspace.web_client().apps_connections_open(app_token=APP_TOKEN)["url"]
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
            hello: dict[str, Any] = await ws.receive_json()
            return hello

    connect()
    hello = asyncio.run(second_hello())
    assert (hello["type"], hello["num_connections"]) == ("hello", 2)


def test_only_the_app_token_opens_connections(workspace: Workspace) -> None:
    with pytest.raises(SlackApiError, match="not_allowed_token_type"):
        workspace.web_client().apps_connections_open(app_token="xoxb-local")
    with pytest.raises(SlackApiError, match="not_allowed_token_type"):
        workspace.web_client("xapp-local").auth_test()
    with pytest.raises(SlackApiError, match="invalid_auth"):
        workspace.web_client("xoxb-wrong").auth_test()
