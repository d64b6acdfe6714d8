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
"""The API methods that post the same thing twice when they are called twice."""

CONNECTIONS, FILES = 1000, 4096
"""The most connections for signed requests at once, and the limit of open files that the process sets for them."""

OWN_WORDS = frozenset({None, "thread_broadcast", "file_share"})
"""The subtypes of a message in a person's own words: typed, also sent to the channel, or with a file attached.

An allow list, because Slack has some thirty other subtypes (edits, joins, messages of apps) and adds new ones.
"""


class _Retry(RetryHandler):
    """Retries a request whose answer a broken connection or Slack's servers lost, unless it might post twice."""

    def _can_retry(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if request.url.endswith(SAYS):
            # The message may have been posted: the caller looks for it before posting again.
            return False
        if response:
            return response.status_code in (500, 503)
        return isinstance(error, URLError | ConnectionResetError)


def web_client(settings: SlackSettings) -> WebClient:
    """Return the client of Slack's Web API, which retries after rate limits and failures of Slack's servers."""
    patience: list[RetryHandler] = [RateLimitErrorRetryHandler(max_retry_count=3), _Retry(max_retry_count=2)]
    return WebClient(token=settings.bot_token, base_url=settings.api, timeout=15, retry_handlers=patience)


def make_app(settings: SlackSettings, client: WebClient, inbox: Inbox, forget: Callable[[], None]) -> App:
    """Return the app. `forget()` drops what is cached about user groups."""
    app = App(
        # Without a name Bolt searches the source of everything that is loaded for one.
        name="mautic-ops",
        client=client,
        signing_secret=settings.signing_secret or None,
        # Listener first, answer second: otherwise Bolt acknowledges an event before it is stored.
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
            _store_edit(inbox, body, event, context.bot_user_id)
            return
        if not _by_a_person(event) or not event.get("thread_ts"):
            return
        reply = _reply(body, event, context.bot_user_id) | _age(request, event)
        # What else people say to each other is none of the bot's business, and is not stored.
        if reply["mention"] or decision(reply["text"]) or almost(reply["text"]):
            # A mention arrives twice, here and as app_mention, under one key: either has all the information.
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
        """Accept all other events, or Slack delivers them again and again."""

    return app


def _age(request: BoltRequest, event: dict[str, Any]) -> dict[str, float]:
    """Return how many seconds ago a message was typed, as `age`, if Slack could not deliver it at the first try."""
    if not request.headers.get("x-slack-retry-num"):
        return {}
    return {"age": max(0.0, time.time() - float(event["ts"]))}


def _by_a_person(event: dict[str, Any]) -> bool:
    """Return whether a message is a person's own words, unedited: an edited message decides nothing."""
    own = event.get("subtype") in OWN_WORDS and not event.get("edited")
    return own and bool(event.get("user")) and not event.get("bot_id")


def _store_edit(inbox: Inbox, body: dict[str, Any], event: dict[str, Any], bot: str | None) -> None:
    """Store a reply that an edit turned into a decision: it does not count, and its author has to be told so."""
    now, before = ({**event.get(name, {}), "channel": event["channel"]} for name in ("message", "previous_message"))
    if not now.get("thread_ts") or not _by_a_person(now | {"edited": None}) or now.get("text") == before.get("text"):
        return
    reply = _reply(body, now, bot)
    if decision(reply["text"]):
        inbox.put("reply", f"{event['channel']}:{now['ts']}:{event['ts']}", reply | {"mention": False, "edited": True})


def _reply(body: dict[str, Any], event: dict[str, Any], bot: str | None) -> dict[str, Any]:
    """Return the payload of a reply, without a mention of the bot at the beginning of its text.

    A mention of anybody else stays: to ask another person is no decision.
    """
    text, ours = event.get("text", ""), rf"<@{bot}(?:\|[^>]*)?>"
    # Formatting may surround the whole text.
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
    """Store a delivery, then acknowledge it: if it cannot be stored, it is not handled, and the person sees that."""
    inbox.put(kind, key, payload)
    ack()


class SignedHttp:
    """Takes Slack's signed requests, with waitress, from a proxy on this machine: Slack speaks HTTPS only."""

    def __init__(self, app: App, settings: SlackSettings) -> None:
        # Imported here so that Socket Mode does not wait for it at the start.
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
            # Unfinished requests of strangers must not keep Slack out, nor use up memory and open files.
            connection_limit=_connections(),
            channel_timeout=10,
            cleanup_interval=5,
            inbuf_overflow=64 << 10,
            # select() cannot handle file descriptors above 1024.
            asyncore_use_poll=True,
        )

    def connect(self) -> None:
        """Start to take deliveries; those that arrived since the port was opened have waited."""
        threading.Thread(target=self._server.run, name="signed-http", daemon=True).start()

    def close(self) -> None:
        """Take no more deliveries, and wait a while for those in progress."""
        # Not server.close(): the loop has to go on for the answers, and has to close the listener in its own thread.
        self._server.trigger.pull_trigger(lambda: self._loop.close(self._server))
        self._server.task_dispatcher.shutdown()


def _connections() -> int:
    """Return how many connections may be open at once: at most half of the files that the process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, FILES):
        # systemd starts services with a limit of 1024.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    return min(CONNECTIONS, max(soft, min(hard, FILES)) // 2)


class SocketMode(Connections):
    """Takes the app's deliveries by Socket Mode. The constructor asks Slack for an address; `connect` connects.

    Raises InvalidSettings where Slack rejects the token.
    """

    def __init__(self, app: App, settings: SlackSettings) -> None:
        def address() -> str:
            return str(app.client.apps_connections_open(app_token=settings.app_token)["url"])

        try:
            first = [address()]
        except SlackApiError as error:
            raise InvalidSettings(f"Slack rejected SLACK_APP_TOKEN: {error.response['error']}.") from error
        super().__init__(lambda: first.pop() if first else address(), lambda envelope: _dispatched(app, envelope))


def _dispatched(app: App, envelope: dict[str, Any]) -> dict[str, Any] | None:
    """Hand a delivery to the app, with the retry headers of a signed request; return its answer, None if it failed."""
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
