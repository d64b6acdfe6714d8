"""Requests to one LXD server, and its errors in the bot's words. With `sessions`, the only importer of pylxd.

pylxd provides the connection, the addresses and the first parsing of errors. The requests are made through its raw
`api`, because its models make one more request per instance, save without an ETag, wait without a deadline, force every
stop and lose output of commands under load.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import requests
import urllib3
import websocket
from pylxd import Client
from pylxd.exceptions import ClientConnectionFailed, LXDAPIException

from bot.lxd import products
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.lxd.refusals import Busy, Held, Passing, refusal
from bot.lxd.sessions import connect, open_session

LONG = 1800
"""Seconds that work on whole file systems (copy, image, publish) may take."""
SHORT = 120
"""Seconds that everything else may take."""
_POLL = 10
"""Seconds of one wait request. If the operation is still `Running` after them, the loop asks again."""
_GLANCE = 2
"""The same for a transfer, whose failure has to be noticed soon: somebody may be waiting for its end."""
_MOMENT = 0.03
"""Seconds between two calls of `until` while an operation runs; each costs the server some milliseconds."""
_GOING_ON = ("Pending", "Running", "Cancelling")
PATIENT = 120
"""Seconds that an earlier operation, such as that of a bot that died, may occupy an instance. After them it is an
error."""


class LxdConnection:
    """The connection to one project of an LXD server (or cluster, through any member). Safe for many threads.

    Args:
        endpoint: the path of a Unix socket, or `https://host:8443`.
        pool: name of the storage pool, for the message that it is full.
        certificate: paths of the client certificate and key, for https.
        server_certificate: path of the server's own certificate, which is then the only one that is trusted.
        timeout: seconds within which a single request must be answered.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        project: str,
        pool: str,
        certificate: tuple[str, str] | None,
        server_certificate: str | None,
        timeout: float,
    ) -> None:
        self.endpoint = endpoint
        self._project = project
        self._pool = pool
        self._certificate = certificate
        self._server_certificate = server_certificate
        self.timeout = timeout
        self._client: Any = None

    def connected(self) -> Any:
        """Return the pylxd client, created at the first use so that the bot can start while LXD is away.

        Threads that come at the same time each create one: no thread waits for another's answer from a silent server.
        """
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> Any:
        endpoint, session = open_session(self.endpoint, self._certificate, self._server_certificate)
        return Client(endpoint, session=session, timeout=self.timeout)

    @property
    def product(self) -> str:
        """The product that the server or its socket's path names, in words that may begin a sentence."""
        if self._client is not None and (environment := self._client.host_info.get("environment")):
            return products.called(environment["server"]).name
        found = products.at(self.endpoint)
        return found.name if found else "The server"

    def request(self, verb: str, path: str, doing: str, *, project: bool = True, **arguments: Any) -> Any:
        """Make one request, `arguments` as for requests. Returns the response, or raises a kind of LxdError."""
        if project:
            arguments["params"] = {**arguments.get("params", {}), "project": self._project}
        tries = 5
        while True:
            try:
                with self.words(doing):
                    api = self.connected().api
                    return getattr(api[path] if path else api, verb)(**arguments)
            except Passing:
                tries -= 1
                if not tries:
                    raise
                time.sleep(0.1)

    def stream(self, path: str, doing: str, timeout: float) -> Any:
        """Open one of the WebSockets of a background operation within `timeout` seconds; raises LxdUnavailable."""
        with self.words(doing):
            plain = connect(self.endpoint, self._certificate, self._server_certificate, timeout)
            try:
                return websocket.create_connection(f"ws://lxd/1.0/{path}", socket=plain)
            except BaseException as error:
                plain.close()
                if isinstance(error, websocket.WebSocketException):
                    raise LxdUnavailable(f"{self.product} could not {doing} now: {error}.") from error
                raise

    def json(self, verb: str, path: str, doing: str, **arguments: Any) -> Any:
        """Make one request and return the whole JSON answer."""
        return self.request(verb, path, doing, **arguments).json()

    def get(self, path: str, doing: str, params: Mapping[str, str] | None = None, *, project: bool = True) -> Any:
        """Make a GET request and return the `metadata` of its answer."""
        return self.json("get", path, doing, params=dict(params or {}), project=project)["metadata"]

    def change(
        self,
        verb: str,
        path: str,
        doing: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        deadline: float = SHORT,
        until: Callable[[], bool] | None = None,
    ) -> Any:
        """Make a request that LXD answers with a background operation, and wait for its end.

        Where another operation occupies the instance (as after a crash of the bot), first wait for its end, for PATIENT
        seconds at most: a caller that waits keeps others from their turn. `until`: called repeatedly while the
        operation runs, until it returns true.
        """
        end, pause = time.monotonic() + min(deadline, PATIENT), 0.1
        while True:
            try:
                started = self.json(verb, path, doing, json=body, params=params or {})
                # If LXD goes away meanwhile, `finish` finds out how the operation ended.
                with suppress(LxdUnavailable):
                    while until and not until() and self.look(started, doing)["status"] in _GOING_ON:
                        time.sleep(_MOMENT)
                return self.finish(started, doing, deadline)
            except Held:
                raise
            except Busy:
                if time.monotonic() > end:
                    raise
                time.sleep(pause)
                pause = min(1.2 * pause, _GLANCE)

    def finish(self, started: Any, doing: str, deadline: float, *, moving: Callable[[], object] | None = None) -> Any:
        """Wait for the end of a background operation and return it, or raise a kind of LxdError."""
        ended = self.operation(started, doing, deadline, moving=moving)
        if ended["status"] != "Success":
            raise self.refusal(ended["err"] or f"it ended as {ended['status']}", doing)
        return ended

    def look(self, started: Any, doing: str) -> Any:
        """Return the present state of a background operation."""
        return self.get(f"operations/{started['metadata']['id']}", doing, project=False)

    def operation(
        self, started: Any, doing: str, deadline: float, *, moving: Callable[[], object] | None = None
    ) -> Any:
        """Wait for the end of an operation and return it, successful or not.

        The wait begins at once, because LXD forgets an operation 5 s after its end, and consists of several requests,
        so that the bot's own deadline holds. `deadline` (seconds) is for the whole, or with `moving` for each change in
        what that returns; raises LxdUnavailable after it.
        """
        end = time.monotonic() + deadline
        before = None
        while True:
            piece = max(1, min(_GLANCE if moving else _POLL, math.ceil(end - time.monotonic())))
            patience = piece + (_POLL if moving else self.timeout)
            stands = self._wait(started, doing, piece, patience)
            if stands["status"] not in _GOING_ON:
                return stands
            if moving and (now := moving()) != before:
                before, end = now, time.monotonic() + deadline
            if time.monotonic() >= end:
                raise LxdUnavailable(f"{self.product} did not {doing} within {round(deadline)} seconds.")

    def _wait(self, started: Any, doing: str, seconds: int, patience: float) -> Any:
        """Return the state of a background operation, at its end or after `seconds`."""
        path = f"operations/{started['metadata']['id']}/wait"
        try:
            answer = self.json("get", path, doing, params={"timeout": seconds}, timeout=patience, project=False)
        except LxdUnavailable:
            raise
        except LxdError:
            # Incus answers with an error both when the operation failed and when the time is over: ask the operation
            # itself.
            return self.look(started, doing)
        return answer["metadata"]

    def settle(self, name: str, doing: str) -> None:
        """Wait for the end of a copy to this name that the bot gave up: LXD goes on, and cannot cancel it.

        Raises LxdUnavailable where the copy takes longer than SHORT seconds.
        """
        end = time.monotonic() + SHORT
        while self.under_way("Creating instance", name, doing):
            if time.monotonic() > end:
                raise LxdUnavailable(
                    f"{self.product} could not {doing} now: it still makes `{name}` for an earlier request."
                )
            time.sleep(0.2)

    def under_way(self, description: str, instance: str, doing: str) -> list[Any]:
        """Return an instance's running operations with this description of LXD's, on any member of a cluster."""
        running = self.get("operations", doing, {"recursion": "1"}).get("running", [])
        return [
            operation
            for operation in running
            if operation["description"] == description
            and f"/1.0/instances/{instance}" in [path.partition("?")[0] for path in operation["resources"]["instances"]]
        ]

    @contextmanager
    def words(self, doing: str) -> Iterator[None]:
        """Turn every error of pylxd and the libraries below it into a kind of LxdError with one sentence."""
        try:
            yield
        except LXDAPIException as error:
            raise self.refusal(_reason(error), doing, error.response.status_code) from error
        except (ClientConnectionFailed, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise LxdUnavailable(_unreachable(self.product, self.endpoint, doing, error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise LxdUnavailable(f"What answers at {self.endpoint} makes no sense: neither LXD nor Incus?") from error

    def refusal(self, reason: str, doing: str, status: int = 400) -> LxdError:
        """Return the error for a refusal, by its text: LXD answers most of them with 400 or 500."""
        named = {"product": self.product, "endpoint": self.endpoint, "pool": self._pool}
        return refusal(reason, doing, status, **named)


def path_of(name: str, snapshot: str = "") -> str:
    """Return the API path of an instance, or of one of its snapshots."""
    path = f"instances/{quote(name, safe='')}"
    return f"{path}/snapshots/{quote(snapshot, safe='')}" if snapshot else path


def _reason(error: LXDAPIException) -> str:
    try:
        return str(error)
    except (ValueError, AttributeError):
        return f"HTTP {error.response.status_code}"


def _unreachable(product: str, endpoint: str, doing: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"The bot could not {doing} at {endpoint}: it cannot open {error.filename} ({error.strerror})."
    if endpoint.startswith("/") and "Permission denied" in str(error):
        return f"The bot may not open the socket {endpoint}; put its user into the group that owns it."
    if isinstance(error, requests.Timeout):
        return f"{product} at {endpoint} did not answer in time when asked to {doing}."
    if isinstance(error, requests.exceptions.SSLError) or "fingerprint" in str(error).lower():
        return f"{product} at {endpoint} shows another certificate than the one the bot was given for it."
    return f"{product} at {endpoint} cannot be reached; is it running?"
