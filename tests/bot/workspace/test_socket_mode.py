"""Socket Mode connections: refreshed, cut, refused, and several at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from slack_bolt import Ack, App
from slack_sdk.errors import SlackApiError

from bot.intake.listeners import SocketMode
from tests.support.bot import settings_in
from tests.support.workspace import APP_TOKEN, Workspace, WorkspaceServer, eventually

Connect = Callable[[], Any]


@pytest.mark.parametrize("reason", ["refresh_requested", "warning", "hard"])
def test_an_app_reconnects_after_a_disconnect(app: App, connect: Connect, workspace: Workspace, reason: str) -> None:
    app.command("/mautic")(lambda ack: ack("still here"))
    connect()

    workspace.faults(disconnect=reason)
    eventually(lambda: _answered(workspace), 60)


def _answered(workspace: Workspace) -> bool:
    return bool(workspace.command("operator", "ops", "/mautic list")["ok"])


@pytest.fixture
def bot(app: App, workspace: WorkspaceServer, tmp_path: Path) -> Iterator[SocketMode]:
    """The bot's own Socket Mode, connected, over an app that answers every command."""
    app.command("/mautic")(lambda ack: ack())
    mode = SocketMode(app, replace(settings_in(tmp_path).slack, app_token=APP_TOKEN))
    mode.connect()
    yield mode
    mode.close()


class Talk:
    """Sends commands without a pause, from several threads, while something happens; `lost` are those that failed."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.acknowledged = 0
        self.lost: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._people = [threading.Thread(target=self._ask) for _ in range(3)]

    def _ask(self) -> None:
        while not self._over.wait(0.02):
            seen = self.workspace.command("operator", "ops", "/mautic list")
            if seen["ok"]:
                self.acknowledged += 1
            else:
                self.lost.append(seen)

    def __enter__(self) -> Talk:
        for one in self._people:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._people:
            one.join()


def test_no_command_is_lost_during_refreshes(bot: SocketMode, workspace: Workspace) -> None:
    with Talk(workspace) as talk:
        for reason in ("refresh_requested", "warning", "refresh_requested", "warning"):
            workspace.faults(disconnect=reason, warning_seconds=0.3)
            before = talk.acknowledged
            eventually(lambda: workspace.faults()["connections"] == 1)
            eventually(lambda before=before: talk.acknowledged > before + 5)  # type: ignore[misc]
    assert talk.lost == []


def test_repeated_warnings_do_not_exceed_slacks_limit_of_connections(bot: SocketMode, workspace: Workspace) -> None:
    for _ in range(9):
        workspace.faults(disconnect="warning", warning_seconds=20)
        eventually(lambda: _answered(workspace))
    assert workspace.faults()["connections"] < 10
    workspace.faults(disconnect="hard")
    eventually(lambda: _answered(workspace), 60)


@pytest.mark.parametrize("fault", ["hard", "half_open"])
def test_the_bot_reconnects_after_its_connection_died_silently(
    bot: SocketMode, workspace: Workspace, fault: str
) -> None:
    workspace.faults(disconnect=fault)
    eventually(lambda: _answered(workspace), 60)


@pytest.mark.parametrize(
    "trouble",
    [
        {"fail": {"method": "apps.connections.open", "error": "internal_error", "count": 2}},
        {"rate_limit": {"method": "apps.connections.open", "count": 2, "retry_after": 1}},
        {"api_down": 2},
    ],
)
def test_the_bot_reconnects_after_slack_refused_connections_for_a_while(
    bot: SocketMode, workspace: Workspace, trouble: dict[str, Any]
) -> None:
    workspace.faults(disconnect="hard", **trouble)
    eventually(lambda: _answered(workspace), 60)


def test_the_old_connection_is_read_to_its_end_while_slack_refuses_a_new_one(
    bot: SocketMode, workspace: Workspace
) -> None:
    workspace.faults(fail={"method": "apps.connections.open", "error": "internal_error", "count": 2})
    with Talk(workspace) as talk:
        workspace.faults(disconnect="warning", warning_seconds=4)
        eventually(lambda: workspace.faults()["connections"] == 2, 60)
        eventually(lambda: workspace.faults()["connections"] == 1, 60)
    assert talk.lost == []


def test_the_bot_disconnects_at_once(bot: SocketMode, workspace: Workspace) -> None:
    """Otherwise it would be killed before it has drained; commands in progress are acknowledged first."""
    with Talk(workspace) as talk:
        eventually(lambda: talk.acknowledged > 5)
        began = time.monotonic()
        bot.close()
        assert time.monotonic() - began < 8
    eventually(lambda: workspace.faults()["connections"] == 0)


def test_the_bot_opens_one_connection(app: App, tmp_path: Path, workspace: Workspace) -> None:
    """Slack lets an app open only a few per minute, and would deliver into one that is about to be closed."""
    opened: list[str] = []
    real = app.client.apps_connections_open
    app.client.apps_connections_open = lambda **given: opened.append("") or real(**given)  # type: ignore[method-assign]
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
