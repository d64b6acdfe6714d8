"""The listeners: each delivery is recorded under its key and acknowledged, and nothing else happens."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from slack_bolt import App, BoltRequest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.web import SlackResponse

from bot.engine.approvals import decision
from bot.intake.listeners import SignedHttp, make_app, web_client
from bot.settings import InvalidSettings
from bot.slack.messages import Message
from bot.slack.poster import NotPosted, Post, Refusal
from bot.store.database import Database, DatabaseUnavailable
from bot.store.inbox import Inbox
from tests.support.bot import settings_in, until

EVENTS = itertools.count()


def auth_test(_: WebClient, **__: Any) -> SlackResponse:
    """Answer the request that Bolt makes before it accepts a delivery."""
    known = {"ok": True, "team_id": "T0OURS", "user_id": "U0BOT", "bot_id": "B0BOT"}
    return SlackResponse(
        client=None, http_verb="POST", api_url="", req_args={}, data=known, headers={}, status_code=200
    )


class Deliveries:
    """An app whose inbox only collects deliveries."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.inbox = Inbox(Database(folder / "bot.db"), lambda *delivery: self.seen.append(delivery))
        self.slack = settings_in(folder, **environment).slack
        self.app: App = make_app(self.slack, WebClient(token="xoxb-1"), self.inbox, lambda: None)

    def deliver(self, body: dict[str, Any]) -> int:
        """Deliver as Socket Mode does, and return the status of the acknowledgement."""
        response = self.app.dispatch(BoltRequest(body=body, mode="socket_mode"))
        return int(response.status)

    def event(self, **event: Any) -> int:
        known = {"type": "event_callback", "team_id": "T0OURS", "event_id": f"Ev{next(EVENTS)}", "event": event}
        return self.deliver(known)

    def all(self) -> list[tuple[str, str, dict[str, Any]]]:
        self.inbox.stop()
        return self.seen


@pytest.fixture
def deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deliveries:
    monkeypatch.setattr(WebClient, "auth_test", auth_test)
    return Deliveries(tmp_path)


REPLY = {"channel": "C0OPS", "user": "U0OPSLEAD", "ts": "2.2", "thread_ts": "1.1"}
COMMAND = {
    "command": "/mautic",
    "text": "list",
    "user_id": "U0OPSLEAD",
    "team_id": "T0OURS",
    "channel_id": "C0OPS",
    "response_url": "https://hooks.example/1",
    "trigger_id": "1.2.3",
    "a_new_field": {"of": "Slack's"},
}


@pytest.mark.parametrize("order", [("message", "app_mention"), ("app_mention", "message")])
def test_a_mention_in_a_thread_is_one_delivery_whichever_event_comes_first(deliveries: Deliveries, order: Any) -> None:
    for kind in order:
        assert deliveries.event(type=kind, text="<@U0BOT> what now?", **REPLY) == 200
    ((kind, key, payload),) = deliveries.all()
    assert (kind, key, payload["mention"]) == ("reply", "C0OPS:2.2", True)


@pytest.mark.parametrize("kind", ["message", "app_mention"])
def test_a_retried_delivery_is_as_late_as_its_message_is_old(deliveries: Deliveries, kind: str) -> None:
    """Without a retry a delivery counts as immediate, whatever the clock of this machine says."""
    for number, headers in enumerate(({}, {"x-slack-retry-num": "2"})):
        event = REPLY | {"type": kind, "text": "<@U0BOT> approve", "ts": f"{time.time() - 400 + number:.4f}"}
        body = {"type": "event_callback", "team_id": "T0OURS", "event_id": f"Ev{next(EVENTS)}", "event": event}
        assert deliveries.app.dispatch(BoltRequest(body=body, mode="socket_mode", headers=headers)).status == 200
    late = [payload["late"] for _, _, payload in deliveries.all()]
    assert sorted(round(seconds, -2) for seconds in late) == [0, 400]


def test_only_original_replies_of_people_in_threads_are_recorded(deliveries: Deliveries) -> None:
    deliveries.event(type="message", text="approve", **REPLY | {"thread_ts": ""})
    for subtype in ("message_changed", "message_deleted", "message_replied", "bot_message", "me_message", "new_one"):
        deliveries.event(type="message", text="approve", subtype=subtype, **REPLY)
    deliveries.event(type="message", text="approve", bot_id="B0OTHER", **REPLY)
    deliveries.event(type="message", text="approve", edited={"user": "U0OPSLEAD", "ts": "3.3"}, **REPLY)
    deliveries.event(type="app_mention", text="<@U0BOT> approve", edited={"user": "U0OPSLEAD", "ts": "3.3"}, **REPLY)
    deliveries.event(type="message", text="approve", **REPLY)
    ((_, _, payload),) = deliveries.all()
    assert (payload["text"], payload["mention"], payload["team"]) == ("approve", False, "T0OURS")


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("approve", {"subtype": "thread_broadcast", "root": {"ts": "1.1", "text": "the card"}}),
        ("deny because of this", {"subtype": "file_share", "files": [{"id": "F1"}], "upload": False}),
        ("approve", {"files": [{"id": "F1"}]}),
    ],
)
def test_a_reply_that_is_also_sent_to_the_channel_or_has_a_file_is_one_decision(
    deliveries: Deliveries, text: str, more: dict[str, Any]
) -> None:
    deliveries.event(type="message", text=text, **REPLY, **more)
    # Slack reports a broadcast again once the thread's root refers to it.
    deliveries.event(type="message", text=text, **REPLY, **more)
    deliveries.event(
        type="message", subtype="message_changed", hidden=True, channel="C0OPS", ts="4.4", message={**REPLY, **more}
    )
    ((_, key, payload),) = deliveries.all()
    assert (key, payload["text"]) == ("C0OPS:2.2", text)


@pytest.mark.parametrize("kind", ["message", "app_mention"])
@pytest.mark.parametrize(
    "text",
    [
        " <@U0BOT> approve client-x ",
        "<@U0BOT>: approve client-x",
        "<@U0BOT|mautic> approve client-x",
        "*<@U0BOT>, approve client\u200b-x*",
    ],
)
def test_a_leading_mention_of_the_bot_is_not_part_of_the_decision(deliveries: Deliveries, kind: str, text: str) -> None:
    deliveries.event(type=kind, text=text, **REPLY)
    ((_, _, payload),) = deliveries.all()
    found = decision(payload["text"])
    assert found
    assert (found["typed"], payload["mention"]) == ("client-x", True)


@pytest.mark.parametrize("text", ["\u200bapprove", "`approve client-x`", "*approve*", "*deny* because it\u2019s late"])
def test_a_pasted_or_formatted_decision_is_recorded(deliveries: Deliveries, text: str) -> None:
    deliveries.event(type="message", text=text, **REPLY)
    assert len(deliveries.all()) == 1


@pytest.mark.parametrize(
    "text", ["the client's password is hunter2", "<@U0OPSLEAD2> approve", "<@U0OPSLEAD2> cancel", "approve if it rains"]
)
def test_conversation_between_people_is_not_recorded(deliveries: Deliveries, text: str) -> None:
    assert deliveries.event(type="message", text=text, **REPLY) == 200
    assert deliveries.all() == []
    assert deliveries.inbox.database.read("SELECT * FROM inbox") == []


@pytest.mark.parametrize("kind", ["message", "app_mention"])
def test_a_message_without_a_user_is_acknowledged_and_ignored(deliveries: Deliveries, kind: str) -> None:
    assert deliveries.event(type=kind, text="<@U0BOT> approve", **REPLY | {"user": ""}) == 200
    assert deliveries.all() == []


def test_only_the_key_of_a_processed_delivery_is_kept(deliveries: Deliveries) -> None:
    deliveries.event(type="message", text="deny, the password is hunter2", **REPLY)
    assert len(deliveries.all()) == 1
    assert [tuple(row) for row in deliveries.inbox.database.read("SELECT key, payload FROM inbox")] == [
        ("C0OPS:2.2", "")
    ]


def test_a_command_that_is_delivered_again_is_recorded_once(deliveries: Deliveries) -> None:
    assert [deliveries.deliver(dict(COMMAND)) for _ in range(3)] == [200, 200, 200]
    ((kind, _, payload),) = deliveries.all()
    assert (kind, payload["text"], payload["user"], payload["team"]) == ("command", "list", "U0OPSLEAD", "T0OURS")


def test_a_command_that_cannot_be_recorded_is_not_acknowledged(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise DatabaseUnavailable("full")

    monkeypatch.setattr(deliveries.inbox, "put", full)
    assert deliveries.deliver(dict(COMMAND)) == 500


def test_a_reply_that_could_not_be_recorded_is_recorded_when_it_comes_again(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise DatabaseUnavailable("full")

    with monkeypatch.context() as patched:
        patched.setattr(deliveries.inbox, "put", full)
        assert deliveries.event(type="message", text="approve", **REPLY) == 500
    assert deliveries.event(type="message", text="approve", **REPLY) == 200
    assert len(deliveries.all()) == 1


def test_an_opened_home_tab_is_a_delivery_like_any_other(deliveries: Deliveries) -> None:
    deliveries.event(type="app_home_opened", user="U0OPSLEAD", tab="home")
    deliveries.event(type="app_home_opened", user="U0OPSLEAD", tab="messages")
    ((kind, _, payload),) = deliveries.all()
    assert (kind, payload["user"], payload["team"]) == ("home", "U0OPSLEAD", "T0OURS")


def test_a_button_press_carries_the_organisation_of_the_person(deliveries: Deliveries) -> None:
    body = {
        "type": "block_actions",
        "user": {"id": "U0OUTSIDER", "team_id": "T0OTHER"},
        "team": {"id": "T0OURS"},
        "channel": {"id": "C0OPS"},
        "trigger_id": "1.2",
        "actions": [{"type": "button", "action_id": "approve", "block_id": "b", "value": "7", "action_ts": "3.3"}],
    }
    assert deliveries.deliver(body) == 200
    ((kind, key, payload),) = deliveries.all()
    assert (kind, key) == ("action", "U0OUTSIDER:approve:3.3")
    assert (payload["team"], payload["value"]) == ("T0OTHER", "7")


@pytest.mark.parametrize("callback", ["typed_name", "command", "give_up", "one_of_tomorrow"])
def test_every_modal_of_the_bot_can_be_submitted(deliveries: Deliveries, callback: str) -> None:
    state = {"values": {"name": {"name": {"type": "plain_text_input", "value": "client-x"}}}}
    view = {
        "id": "V1",
        "type": "modal",
        "callback_id": callback,
        "private_metadata": '{"channel": "C0OPS"}',
        "state": state,
    }
    person = {"id": "U0OPSLEAD", "team_id": "T0OURS"}
    body = {"type": "view_submission", "user": person, "team": {"id": "T0OURS"}, "view": view}
    assert deliveries.deliver(body) == 200
    ((kind, _, payload),) = deliveries.all()
    assert (kind, payload["callback_id"], payload["values"]) == ("submission", callback, {"name": "client-x"})


@pytest.mark.parametrize(
    ("before", "after", "heard"),
    [
        ("aprove", "approve", [("approve", True)]),
        ("looks fine", "<@U0BOT> approve", [("approve", True)]),
        ("approve", "approve", []),
        ("fine", "very fine", []),
    ],
)
def test_a_reply_that_is_edited_into_a_decision_is_recorded_as_edited(
    deliveries: Deliveries, before: str, after: str, heard: list[tuple[str, bool]]
) -> None:
    edited = {"edited": {"user": "U0OPSLEAD", "ts": "3.3"}}
    known = {key: value for key, value in REPLY.items() if key != "channel"}
    deliveries.event(
        type="message",
        subtype="message_changed",
        channel="C0OPS",
        ts="3.3",
        message={"type": "message", **known, "text": after, **edited},
        previous_message={"type": "message", **known, "text": before},
    )
    deliveries.event(type="app_mention", text=after, **REPLY, **edited)
    assert [(payload["text"], payload["edited"]) for _, _, payload in deliveries.all()] == heard


def test_an_event_of_another_type_is_acknowledged_and_ignored(deliveries: Deliveries) -> None:
    assert deliveries.event(type="channel_rename", channel={"id": "C0OPS"}) == 200
    assert deliveries.all() == []


@contextmanager
def slack_whose_first_answer(is_lost: str) -> Iterator[tuple[WebClient, list[str]]]:
    """Yield a client of a Slack whose first answer is an error or missing, and the requests that it received."""
    taken: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            taken.append(self.path.removeprefix("/api/"))
            first = len(taken) == 1
            if first and is_lost == "broken":
                self.close_connection = True
                return
            body = json.dumps({"ok": True, "ts": "1.2", "upload_url": "", "file_id": "F1"}).encode()
            self.send_response(int(is_lost) if first else 200)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        slack = replace(settings_in(Path("/nowhere")).slack, api=f"http://127.0.0.1:{server.server_port}/api/")
        yield web_client(slack), taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("is_lost", ["broken", "503"])
def test_a_message_that_slack_may_have_posted_is_not_sent_again(is_lost: str) -> None:
    with slack_whose_first_answer(is_lost) as (client, taken):
        with pytest.raises(NotPosted) as caught:
            Post(client).post("C0OPS", Message("Hello", []), key="digest 2026-11-25")
        assert not isinstance(caught.value, Refusal), "Slack may have posted it"
        assert taken == ["chat.postMessage"]
    with slack_whose_first_answer(is_lost) as (client, taken):
        with pytest.raises((SlackApiError, OSError)):
            client.files_completeUploadExternal(files=[{"id": "F1"}], channel_id="C0OPS")
        assert taken == ["files.completeUploadExternal"]


@pytest.mark.parametrize("is_lost", ["broken", "503", "429"])
def test_a_request_that_is_safe_to_repeat_is_sent_again(is_lost: str) -> None:
    with slack_whose_first_answer(is_lost) as (client, taken):
        client.conversations_history(channel="C0OPS")
        assert taken == ["conversations.history"] * 2


def test_a_rate_limited_post_is_sent_again() -> None:
    with slack_whose_first_answer("429") as (client, taken):
        assert Post(client).post("C0OPS", Message("Hello", []), key="digest 2026-11-25") == "1.2"
        assert taken == ["chat.postMessage"] * 2


@pytest.fixture
def signed_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Deliveries, SignedHttp, int]]:
    """An app that accepts signed requests, its listener, and the port."""
    monkeypatch.setattr(WebClient, "auth_test", auth_test)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    deliveries = Deliveries(tmp_path, SLACK_SIGNING_SECRET="s3cret", MAUTIC_OPS_SLACK__HTTP_PORT=str(port))
    door = SignedHttp(deliveries.app, deliveries.slack)
    door.connect()
    yield deliveries, door, port
    door.close()


def signed(secret: bytes = b"s3cret") -> tuple[str, dict[str, str]]:
    """Return the body and headers of a command, signed as Slack signs them."""
    body, now = urlencode(COMMAND | {"trigger_id": uuid4().hex}), str(int(time.time()))
    signature = hmac.new(secret, f"v0:{now}:{body}".encode(), hashlib.sha256).hexdigest()
    return body, {
        "X-Slack-Request-Timestamp": now,
        "X-Slack-Signature": f"v0={signature}",
        "Content-Type": "application/x-www-form-urlencoded",
    }


def post(port: int, secret: bytes = b"s3cret") -> int:
    """Post a command, and return the status of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/slack/events", *signed(secret))
        return connection.getresponse().status
    finally:
        connection.close()


def test_signed_requests_are_accepted_while_another_connection_is_silent(signed_http: Any) -> None:
    deliveries, _, port = signed_http
    with socket.create_connection(("127.0.0.1", port)):
        assert (post(port), post(port, b""), post(port, b"another")) == (200, 401, 401)
    assert [kind for kind, _, _ in deliveries.all()] == ["command"]


HALF = b"POST /slack/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na"


def test_unfinished_requests_of_strangers_do_not_keep_slack_out(signed_http: Any) -> None:
    """600 connections take more than 1,024 files here, two each; systemd allows a service 1,024 by default."""
    _, _, port = signed_http
    with ExitStack() as half:
        for _ in range(600):
            half.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(HALF)
        assert post(port) == 200


def test_an_unfinished_request_is_closed_after_some_seconds(signed_http: Any) -> None:
    _, door, port = signed_http
    with socket.create_connection(("127.0.0.1", port), timeout=10) as half:
        half.sendall(HALF)
        until(lambda: len(door._server.active_channels) == 1)
        (channel,) = door._server.active_channels.values()
        for seconds in (8, 3):
            assert not channel.will_close
            channel.last_activity -= seconds
            door._server.maintenance(time.time())
        assert half.recv(1) == b""
    assert door._server.adj.cleanup_interval <= 5


def test_a_slow_request_and_the_next_one_on_its_connection_are_accepted(signed_http: Any) -> None:
    deliveries, _, port = signed_http
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(2):
        body, headers = signed()
        connection.putrequest("POST", "/slack/events")
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders()
        for begin in range(0, len(body), 100):
            connection.send(body[begin : begin + 100].encode())
            time.sleep(0.2)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    connection.close()
    assert [kind for kind, _, _ in deliveries.all()] == ["command"] * 2


def test_the_http_listener_is_local_and_a_second_one_on_its_port_is_refused(signed_http: Any) -> None:
    deliveries, door, _ = signed_http
    assert door._server.effective_host == "127.0.0.1"
    with pytest.raises(InvalidSettings, match=r"slack\.http_port cannot be listened on: .*in use"):
        SignedHttp(deliveries.app, deliveries.slack)


def test_after_closing_no_request_is_accepted_even_on_an_open_connection(signed_http: Any) -> None:
    deliveries, door, port = signed_http
    open_one = HTTPConnection("127.0.0.1", port, timeout=10)
    open_one.request("GET", "/")
    assert open_one.getresponse().read() == b"Not Found"
    door.close()

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused)
    open_one.sock.settimeout(1)
    with suppress(OSError, HTTPException):
        open_one.request("POST", "/slack/events", *signed())
        assert not open_one.getresponse()
    open_one.close()
    assert deliveries.all() == []
