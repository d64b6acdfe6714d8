"""The same app behind a request URL, with signed requests."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from slack_bolt import Ack, App, BoltRequest

from tests.support.workspace import SIGNING_SECRET, WorkspaceServer, eventually


@pytest.fixture
def listener() -> Iterator[ThreadingHTTPServer]:
    """An HTTP server that hands /slack/events to `server.app`, a Bolt app."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            headers: dict[str, Any] = {name: [value] for name, value in self.headers.items()}
            known = self.path == "/slack/events"
            answer = self.server.app.dispatch(BoltRequest(body=body, headers=headers))  # type: ignore[attr-defined]
            self.send_response(answer.status if known else 404)
            for name, value in answer.first_headers_without_set_cookie().items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def workspace(tmp_path: Path, listener: ThreadingHTTPServer) -> Iterator[WorkspaceServer]:
    url = f"http://127.0.0.1:{listener.server_port}"
    server = WorkspaceServer(tmp_path / "workspace", "--http-mode", url, "--retry-delays", "0,0.2,0.2")
    yield server
    server.stop()


def test_commands_presses_and_events_are_signed(workspace: WorkspaceServer, listener: ThreadingHTTPServer) -> None:
    app = App(client=workspace.web_client(), signing_secret=SIGNING_SECRET)
    heard: list[str] = []
    app.command("/mautic")(lambda ack, command: ack(f"heard {command['text']}"))
    app.event("message")(lambda event: heard.append(event["text"]))

    @app.action("go")
    def go(ack: Ack, respond: Any) -> None:
        ack()
        respond("gone")

    listener.app = app  # type: ignore[attr-defined]
    seen = workspace.command("operator", "ops", "/mautic list & more")
    assert seen["messages"][0]["text"] == "heard list &amp; more"

    button = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}}
    blocks = [{"type": "actions", "elements": [button]}]
    ts = app.client.chat_postMessage(channel="C0OPS", text="go", blocks=blocks)["ts"]
    assert workspace.click("operator", "ops", ts, "go")["ok"]
    workspace.wait_for_message("ops", "gone", user="operator")

    workspace.message("operator", "ops", "hello")
    eventually(lambda: "hello" in heard)


def test_an_app_with_another_signing_secret_refuses_requests(
    workspace: WorkspaceServer, listener: ThreadingHTTPServer
) -> None:
    listener.app = App(client=workspace.web_client(), signing_secret="another")  # type: ignore[attr-defined]
    seen = workspace.command("operator", "ops", "/mautic list")
    assert seen["error"] == '/mautic failed with the error "dispatch_failed"'


def test_a_refused_event_is_redelivered(workspace: WorkspaceServer, listener: ThreadingHTTPServer) -> None:
    app = App(client=workspace.web_client(), signing_secret=SIGNING_SECRET)
    retries: list[str] = []

    @app.middleware
    def refuse_the_first(request: BoltRequest, next_: Any, resp: Any) -> Any:
        number = request.headers.get("x-slack-retry-num", ["0"])[0]
        retries.append(number)
        if number != "0":
            return next_()
        resp.status = 500
        return resp

    app.event("message")(lambda: None)
    listener.app = app  # type: ignore[attr-defined]
    workspace.message("operator", "ops", "hello")
    eventually(lambda: retries == ["0", "1"])
