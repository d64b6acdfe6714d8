"""A local workspace in its own process, and a client for what people do in it."""

import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from slack_sdk import WebClient

Json = dict[str, Any]
T = TypeVar("T")

BOT_TOKEN, APP_TOKEN, SIGNING_SECRET = "xoxb-local", "xapp-local", "local-signing-secret"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def eventually(look: Callable[[], T], seconds: float = 60.0, pause: float = 0.02) -> T:
    """Wait for the first truthy value of `look()`, and return it; on timeout raise AssertionError with the last one."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; at the end it was {found!r}")
        time.sleep(pause)
    return found


class Workspace:
    """The people's side of a local workspace at `url`. Users and channels are given by name or id."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def api_url(self) -> str:
        """The URL for WebClient(base_url=…)."""
        return f"{self.url}/api/"

    def web_client(self, token: str = BOT_TOKEN, **options: Any) -> WebClient:
        """Return the app's side: a WebClient without retries, unless `retry_handlers` are given."""
        options.setdefault("retry_handlers", [])
        return WebClient(token=token, base_url=self.api_url, **options)

    # What people do

    def command(self, user: str, channel: str, text: str) -> Json:
        return self.post("command", user=user, channel=channel, text=text)

    def message(self, user: str, channel: str, text: str, thread_ts: str | None = None, **more: Any) -> Json:
        """Write a message. `more`: `broadcast` ("Also send to #channel"), `file` (the name of an attached file)."""
        return self.post("message", user=user, channel=channel, text=text, thread_ts=thread_ts, **more)

    def edit(self, user: str, channel: str, ts: str, text: str) -> Json:
        return self.post("edit", user=user, channel=channel, ts=ts, text=text)

    def click(self, user: str, channel: str, ts: str, action_id: str, **chosen: Any) -> Json:
        """Press a button of a message, or choose. `chosen`: `value` or `selected`, if there is something to choose."""
        return self.post("click", user=user, channel=channel, ts=ts, action_id=action_id, **chosen)

    def click_in_view(self, user: str, view_id: str, action_id: str, **chosen: Any) -> Json:
        return self.post("click", user=user, view_id=view_id, action_id=action_id, **chosen)

    def submit(self, user: str, view_id: str, values: Json | None = None) -> Json:
        """Submit a modal. `values`: {action_id: value} or {block_id: {action_id: value}}."""
        return self.post("submit", user=user, view_id=view_id, values=values or {})

    def close(self, user: str, view_id: str) -> Json:
        return self.post("close", user=user, view_id=view_id)

    def open_home(self, user: str) -> Json:
        return self.post("home", user=user)

    def set_group(self, group: str, users: list[str]) -> Json:
        """Set the members of a user group, which is given by handle or id."""
        return self.post("group", group=group, users=users)

    def set_channel(self, channel: str, *, archived: bool = False, bot: bool = True) -> Json:
        """Set whether a channel is archived, and whether the bot is in it."""
        return self.post("channel", channel=channel, archived=archived, bot=bot)

    def faults(self, **faults: Any) -> Json:
        return self.post("faults", **faults)

    # What people see

    def messages(self, channel: str, user: str = "", thread_ts: str = "") -> list[Json]:
        found: list[Json] = self.get("messages", channel=channel, user=user, thread_ts=thread_ts)["messages"]
        return found

    def cards(self, channel: str) -> list[Json]:
        """Return the messages that show an operation; the bot also posts others, such as a first digest."""
        marks = [(one, (one.get("metadata") or {}).get("event_payload", {})) for one in self.messages(channel)]
        return [one for one, mark in marks if "id" in mark]

    def views(self, user: str) -> list[Json]:
        found: list[Json] = self.get("views", user=user)["views"]
        return found

    def home(self, user: str) -> Json | None:
        found: Json | None = self.get("home", user=user)["view"]
        return found

    def users(self) -> list[Json]:
        found: list[Json] = self.get("users")["users"]
        return found

    def channels(self) -> list[Json]:
        found: list[Json] = self.get("channels")["channels"]
        return found

    # Waiting

    def wait_for_message(
        self,
        channel: str,
        text: str,
        user: str = "",
        thread_ts: str = "",
        seconds: float = 60.0,
    ) -> Json:
        """Wait for a message whose text or blocks contain `text`, and return the newest."""

        def look() -> Json | None:
            found = self.messages(channel, user, thread_ts)
            return next((one for one in reversed(found) if text in json.dumps(one, ensure_ascii=False)), None)

        return _certain(eventually(look, seconds))

    def wait_for_view(self, user: str, callback_id: str = "", seconds: float = 60.0) -> Json:
        """Wait for a modal (with that callback_id) on top, and return it."""

        def look() -> Json | None:
            top = self.views(user)[-1:]
            return top[0] if top and top[0]["callback_id"] in (callback_id or top[0]["callback_id"]) else None

        return _certain(eventually(look, seconds))

    # The wire

    def post(self, what: str, **body: Any) -> Json:
        request = urllib.request.Request(
            f"{self.url}/_control/{what}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        return _answer(request)

    def get(self, what: str, **query: str) -> Json:
        return _answer(f"{self.url}/_control/{what}?{urllib.parse.urlencode(query)}")


class WorkspaceServer(Workspace):
    """The same with its server process; `start` after `stop` uses the same address."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self.options = options
        self.port = 0
        self.log = state.parent / f"{state.name}.log"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "bot.workspace", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--state", str(self.state), *self.options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        super().__init__(_first_line(self.process).rpartition(" ")[2])
        self.port = urllib.parse.urlsplit(self.url).port or 0

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def free_port() -> int:
    """Return a port to listen at later, outside of the range from which the kernel takes ports for connections."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first // 2, first)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _first_line(process: "subprocess.Popen[str]", seconds: float = 60.0) -> str:
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()  # type: ignore[union-attr]
    line = lines.get(timeout=seconds).strip()
    assert line.startswith("Local workspace: "), f"the workspace did not start: {line!r}"
    return line


def _certain(found: Json | None) -> Json:
    assert found is not None
    return found


def _answer(request: urllib.request.Request | str) -> Json:
    try:
        with _direct.open(request, timeout=30) as answer:
            body: Json = json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            body = json.load(refused)
        raise ValueError(body["error"]) from None
    return body
