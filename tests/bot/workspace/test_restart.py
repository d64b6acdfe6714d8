"""What the workspace keeps when it is restarted."""

from collections.abc import Callable
from typing import Any

from slack_bolt import Ack, App

from tests.support.workspace import WorkspaceServer, eventually


def test_messages_home_and_files_survive_a_restart(workspace: WorkspaceServer) -> None:
    client = workspace.web_client()
    root = workspace.message("operator", "ops", "before")["ts"]
    client.chat_postMessage(channel="C0OPS", text="reply", thread_ts=root)
    client.chat_postMessage(channel="U0OPERATOR", text="psst")
    client.chat_postEphemeral(channel="C0OPS", user="U0OPERATOR", text="for you")
    client.files_upload_v2(channel="C0GENERAL", filename="a.txt", content="hello")
    client.views_publish(user_id="U0OPERATOR", view={"type": "home", "blocks": [{"type": "divider"}]})

    def seen() -> list[Any]:
        return [
            workspace.messages("ops", user="operator"),
            workspace.messages("ops", thread_ts=root),
            workspace.messages("@mautic", user="operator"),
            workspace.messages("general"),
            workspace.home("operator"),
            workspace.channels(),
        ]

    before = seen()
    workspace.stop()
    workspace.start()
    assert seen() == before
    assert workspace.message("operator", "ops", "after")["ts"] > root


def test_the_app_reconnects_to_a_restarted_workspace(
    app: App, connect: Callable[[], object], workspace: WorkspaceServer
) -> None:
    @app.command("/mautic")
    def open_modal(ack: Ack, command: dict[str, Any], client: Any) -> None:
        ack()
        view = {"type": "modal", "title": {"type": "plain_text", "text": "New"}, "blocks": []}
        client.views_open(trigger_id=command["trigger_id"], view=view)

    connect()
    workspace.command("operator", "ops", "/mautic new")
    workspace.wait_for_view("operator")
    workspace.stop()
    workspace.start()
    assert len(workspace.views("operator")) == 1
    eventually(lambda: workspace.command("operator", "ops", "/mautic new")["ok"], 60)
