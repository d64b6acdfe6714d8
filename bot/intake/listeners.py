"""The Bolt app, the only importer of slack_bolt. Listeners store a delivery and acknowledge it, nothing else."""

from __future__ import annotations

import json
import logging
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.error import URLError

from slack_bolt import Ack, App, BoltContext, BoltRequest
from slack_bolt.adapter.wsgi import SlackRequestHandler
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryHandler, RetryState
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

from bot.engine.approvals import almost, decision
from bot.intake.socket_mode import AT_A_TIME
from bot.intake.socket_mode import SocketMode as Connections
from bot.settings import InvalidSettings, SlackSettings
from bot.store.inbox import Inbox

log = logging.getLogger(__name__)
ANY = re.compile(r".*", re.S)
SAYS = ("/chat.postMessage", "/files.completeUploadExternal")
"""The methods that say the same thing twice when they are called twice."""

CONNECTIONS, FILES = 1000, 4096
"""Connections that signed requests may come by at once, and files that the process may have open for them."""

SPOKEN = frozenset({None, "thread_broadcast", "file_share"})
"""The subtypes of a message that is a person's own words: typed, sent to the channel too, or with a file beside them.

Named is what is taken: Slack has some thirty others (edits, joins, what apps say), and makes new ones.
"""


class _Again(RetryHandler):
    """Sends a request again whose answer a broken connection or Slack's servers lost, unless it may be said twice."""

    def _can_retry(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if request.url.endswith(SAYS):
            # It may stand there: who posts looks before posting again.
            return False
        if response:
            return response.status_code in (500, 503)
        return isinstance(error, URLError | ConnectionResetError)


def web_client(settings: SlackSettings) -> WebClient:
    """Return the client of Slack's Web API, patient with rate limits and failures of its servers."""
    patience: list[RetryHandler] = [RateLimitErrorRetryHandler(max_retry_count=3), _Again(max_retry_count=2)]
    return WebClient(token=settings.bot_token, base_url=settings.api, timeout=15, retry_handlers=patience)


def make_app(settings: SlackSettings, client: WebClient, inbox: Inbox, forget: Callable[[], None]) -> App:
    """Return the app. `forget()` drops what is known of groups."""
    app = App(
        # Bolt would look for a name in the source of all that is loaded.
        name="mautic-ops",
        client=client,
        signing_secret=settings.signing_secret or None,
        # First the listener, then the answer: Bolt would acknowledge an event before it is written down.
        process_before_response=True,
        token_verification_enabled=False,
    )

    @app.command("/mautic")
    def command(ack: Ack, body: dict[str, Any]) -> None:
        payload = {
            "user": body["user_id"],
            "team": body.get("enterprise_id") or body["team_id"],
            "channel": body["channel_id"],
            "text": body.get("text", ""),
            "response_url": body.get("response_url", ""),
            "trigger_id": body["trigger_id"],
        }
        _write_down(inbox, ack, "command", body["trigger_id"], payload)

    @app.action(ANY)
    def action(ack: Ack, body: dict[str, Any]) -> None:
        clicked = body["actions"][0]
        payload = {
            "user": body["user"]["id"],
            "team": body["user"].get("team_id") or body["team"]["id"],
            "channel": body.get("channel", {}).get("id", ""),
            "home": body.get("view", {}).get("type") == "home",
            "action_id": clicked["action_id"],
            "value": clicked.get("value", ""),
            "response_url": body.get("response_url", ""),
            "trigger_id": body["trigger_id"],
        }
        key = ":".join((payload["user"], clicked["action_id"], str(clicked.get("action_ts", body["trigger_id"]))))
        _write_down(inbox, ack, "action", key, payload)

    @app.view_submission(ANY)
    def submission(ack: Ack, body: dict[str, Any]) -> None:
        view = body["view"]
        metadata = json.loads(view["private_metadata"])
        values = {
            block: element.get("value") or (element.get("selected_option") or {}).get("value")
            for block, elements in view["state"]["values"].items()
            for element in elements.values()
        }
        payload = {
            "user": body["user"]["id"],
            "team": body["user"].get("team_id") or body["team"]["id"],
            "channel": metadata["channel"],
            "callback_id": view["callback_id"],
            "metadata": metadata,
            "values": values,
            "text": view["callback_id"],
        }
        _write_down(inbox, ack, "submission", f"{view['id']}:{view.get('hash', '')}", payload)

    @app.event("message")
    def message(body: dict[str, Any], event: dict[str, Any], context: BoltContext, request: BoltRequest) -> None:
        if event.get("subtype") == "message_changed":
            _hear_an_edit(inbox, body, event, context.bot_user_id)
            return
        if not _by_a_person(event) or not event.get("thread_ts"):
            return
        reply = _reply(body, event, context.bot_user_id) | _age(request, event)
        # What people say to each other is none of ours, and is not kept.
        if reply["mention"] or decision(reply["text"]) or almost(reply["text"]):
            # A mention arrives twice, here and as app_mention, under one key: whichever is first says all there is.
            inbox.put("reply", f"{event['channel']}:{event['ts']}", reply)

    @app.event("app_mention")
    def mention(body: dict[str, Any], event: dict[str, Any], context: BoltContext, request: BoltRequest) -> None:
        if _by_a_person(event):
            key = f"{event['channel']}:{event['ts']}"
            key = key if event.get("thread_ts") else f"mention:{key}"
            reply = _reply(body, event, context.bot_user_id) | _age(request, event)
            inbox.put("reply", key, reply | {"mention": True})

    @app.event("app_home_opened")
    def opened(body: dict[str, Any], event: dict[str, Any]) -> None:
        if event.get("tab", "home") == "home":
            payload = {"user": event["user"], "team": body.get("enterprise_id") or body["team_id"]}
            inbox.put("home", body["event_id"], payload)

    @app.event("subteam_members_changed")
    def members_changed() -> None:
        forget()

    @app.event(ANY)
    def anything() -> None:
        """Take what nobody asked for, or Slack delivers it again and again."""

    return app


def _age(request: BoltRequest, event: dict[str, Any]) -> dict[str, float]:
    """Return how many seconds ago it was typed, where Slack could not deliver it at once, but some tries later."""
    if not request.headers.get("x-slack-retry-num"):
        return {}
    return {"age": max(0.0, time.time() - float(event["ts"]))}


def _by_a_person(event: dict[str, Any]) -> bool:
    """Whether these are the words of a person, as they first said them: what was edited since decides nothing."""
    own = event.get("subtype") in SPOKEN and not event.get("edited")
    return own and bool(event.get("user")) and not event.get("bot_id")


def _hear_an_edit(inbox: Inbox, body: dict[str, Any], event: dict[str, Any], bot: str | None) -> None:
    """Write down a reply that was made a decision by an edit: it is none, but who edited it would wait for ever."""
    now, before = ({**event.get(name, {}), "channel": event["channel"]} for name in ("message", "previous_message"))
    if not now.get("thread_ts") or not _by_a_person(now | {"edited": None}) or now.get("text") == before.get("text"):
        return
    reply = _reply(body, now, bot)
    if decision(reply["text"]):
        inbox.put("reply", f"{event['channel']}:{now['ts']}:{event['ts']}", reply | {"mention": False, "edited": True})


def _reply(body: dict[str, Any], event: dict[str, Any], bot: str | None) -> dict[str, Any]:
    """Return what was typed; only our own mention may stand before it, as who asks another decides nothing."""
    text, ours = event.get("text", ""), rf"<@{bot}(?:\|[^>]*)?>"
    # Formatting may stand around all of it.
    before = re.match(rf"([\s*_`\u200b]*){ours}[\s:,]*", text)
    return {
        "user": event["user"],
        "team": event.get("user_team") or event.get("team") or body["team_id"],
        "channel": event["channel"],
        "text": (before[1] + text[before.end() :] if before else text).strip(),
        "thread_ts": event.get("thread_ts", ""),
        "mention": bool(re.search(ours, text)),
    }


def _write_down(inbox: Inbox, ack: Ack, kind: str, key: str, payload: dict[str, Any]) -> None:
    """Write down, then acknowledge: what cannot be recorded does not happen, and the person sees that it did not."""
    inbox.put(kind, key, payload)
    ack()


class SignedHttp:
    """Slack's signed requests, by waitress, for a proxy on this machine: Slack speaks HTTPS only."""

    def __init__(self, app: App, settings: SlackSettings) -> None:
        # Where Socket Mode is used, nobody waits for it at the start.
        import waitress

        self._loop = waitress.wasyncore.dispatcher
        try:
            listener = socket.create_server(("127.0.0.1", settings.http_port))
        except OSError as error:
            raise InvalidSettings(f"slack.http_port cannot be listened on: {error.strerror}.") from error
        # A thread only writes a row, as in Socket Mode. Nothing that Slack sends is near 4 MiB.
        self._server = waitress.create_server(
            SlackRequestHandler(app),
            sockets=[listener],
            threads=AT_A_TIME,
            max_request_body_size=4 << 20,
            # Strangers' half requests must not keep Slack out, nor take the memory and the files of all else.
            connection_limit=_connections(),
            channel_timeout=10,
            cleanup_interval=5,
            inbuf_overflow=64 << 10,
            # select() knows no file above 1024.
            asyncore_use_poll=True,
        )

    def connect(self) -> None:
        """Take deliveries; those that came since the port was opened have waited."""
        threading.Thread(target=self._server.run, name="signed-http", daemon=True).start()

    def close(self) -> None:
        """Take no more deliveries, and wait a while for those in hand."""
        # Not server.close(): its loop has to go on for the answers, and closes what is its own in its own thread.
        self._server.trigger.pull_trigger(lambda: self._loop.close(self._server))
        self._server.task_dispatcher.shutdown()


def _connections() -> int:
    """Return how many connections may be open at once, half of the files that the process may have at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, FILES):
        # systemd starts services with 1024.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    return min(CONNECTIONS, max(soft, min(hard, FILES)) // 2)


class SocketMode(Connections):
    """The app's deliveries by Socket Mode. Slack is asked before anything begins; `connect` makes the connection."""

    def __init__(self, app: App, settings: SlackSettings) -> None:
        def address() -> str:
            return str(app.client.apps_connections_open(app_token=settings.app_token)["url"])

        try:
            first = [address()]
        except SlackApiError as error:
            raise InvalidSettings(f"Slack rejected SLACK_APP_TOKEN: {error.response['error']}.") from error
        super().__init__(lambda: first.pop() if first else address(), lambda envelope: _dispatched(app, envelope))


def _dispatched(app: App, envelope: dict[str, Any]) -> dict[str, Any] | None:
    """Hand a delivery to the app, with what a signed request has in its headers; its answer, None where it failed."""
    known = {"x-slack-retry-num": "retry_attempt", "x-slack-retry-reason": "retry_reason"}
    headers: dict[str, str | Sequence[str]] = {
        name: str(envelope[field]) for name, field in known.items() if envelope.get(field) is not None
    }
    response = app.dispatch(BoltRequest(body=envelope["payload"], mode="socket_mode", headers=headers))
    if response.status != 200:
        log.info("a delivery was not taken (%s): %s", response.status, response.body)
        return None
    if not response.body:
        return {}
    is_json = response.first_headers().get("content-type", "").startswith("application/json")
    answer: dict[str, Any] = json.loads(response.body) if is_json else {"text": response.body}
    return answer
