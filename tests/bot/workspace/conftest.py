"""A real Bolt app, connected to the workspace by Socket Mode."""

from collections.abc import Iterator

import pytest
from slack_bolt import App
from slack_bolt.adapter.socket_mode.websocket_client import SocketModeHandler

from tests.support.workspace import APP_TOKEN, SIGNING_SECRET, Workspace, WorkspaceServer, eventually


@pytest.fixture
def app(workspace: Workspace) -> App:
    """A Bolt app that knows the workspace, without listeners and not yet connected."""
    return App(client=workspace.web_client(), signing_secret=SIGNING_SECRET)


@pytest.fixture
def connect(app: App, workspace: WorkspaceServer) -> Iterator[object]:
    """A function that connects the app; call it once the listeners are registered."""
    handlers: list[SocketModeHandler] = []

    def connect_now() -> SocketModeHandler:
        before = workspace.faults()["connections"]
        handler = SocketModeHandler(app, APP_TOKEN)
        handlers.append(handler)
        handler.connect()
        eventually(lambda: workspace.faults()["connections"] > before)
        return handler

    yield connect_now
    # The client's close() often waits 10 s for a socket it closed itself; one cut by the server is quick.
    for handler in handlers:
        handler.client.auto_reconnect_enabled = False
    if workspace.process.poll() is None:
        workspace.faults(disconnect="hard")
    for handler in handlers:
        eventually(lambda client=handler.client: not client.is_connected())
        handler.close()
