"""Conversations with a command inside an instance, over the WebSockets of LXD and Incus.

Nothing is stored on the host: the command's standard input, output and error are pipes, whose content LXD passes on
without keeping it. A command that writes while nobody reads waits. LXD kills the command when its control socket
breaks. LXD 5.0 may lose what a command wrote just before its end, so a command should end only after its output has
been read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import websocket

from bot.lxd.connection import LxdConnection, path_of
from bot.lxd.protocol import NotFound, TenantAnswerError

_LIFE = (websocket.ABNF.OPCODE_PING, websocket.ABNF.OPCODE_PONG)
"""Control frames with which LXD checks now and then whether the client is still there."""


@contextmanager
def conversation(
    lxd: LxdConnection, name: str, command: list[str], *, timeout: float, limit: int
) -> Iterator[Conversation]:
    """See `Lxd.talk`."""
    end = time.monotonic() + timeout
    doing = f"run `{Path(command[0]).name}` in `{name}`"
    body = {
        "command": command,
        "environment": {},
        "user": 0,
        "record-output": False,
        "wait-for-websocket": True,
        "interactive": False,
    }
    started = lxd.json("post", f"{path_of(name)}/exec", doing, json=body, timeout=min(timeout, lxd.timeout))
    operation = started["metadata"]["id"]
    streams: dict[str, Any] = {}
    try:
        for stream, secret in sorted(started["metadata"]["metadata"]["fds"].items(), reverse=True):
            # The control socket comes first: the command begins once all others are connected.
            left = max(0.01, min(end - time.monotonic(), lxd.timeout))
            streams[stream] = lxd.stream(f"operations/{operation}/websocket?secret={secret}", doing, left)
        yield Conversation(streams, name, end, timeout, limit, lambda: _ended(lxd, started, name, doing))
    finally:
        for stream in streams.values():
            with suppress(OSError):
                stream.shutdown()


def _ended(lxd: LxdConnection, started: Any, name: str, doing: str) -> TenantAnswerError:
    """Return the error that says that a command ended; raises LxdUnavailable where the server is the cause."""
    try:
        code = (lxd.look(started, doing)["metadata"] or {}).get("return")
    except NotFound:
        code = None
    ended = "" if code is None else f" with {code}"
    return TenantAnswerError(f"What was asked of `{name}` ended{ended} and left no answer.")


class Conversation:
    """See `Talk`."""

    def __init__(
        self,
        streams: Mapping[str, Any],
        name: str,
        end: float,
        timeout: float,
        limit: int,
        ended: Callable[[], TenantAnswerError],
    ) -> None:
        self._to, self._of = streams["0"], streams["1"]
        self._name = name
        self._end = end
        self._timeout = timeout
        self._limit = limit
        self._ended = ended
        self._heard = bytearray()
        self._bytes = 0

    def send(self, content: bytes) -> None:
        """See `Talk.send`."""
        self._to.settimeout(self._left())
        try:
            self._to.send_binary(content)
        except websocket.WebSocketTimeoutException:
            raise self._late() from None
        except (websocket.WebSocketException, OSError):
            raise self._ended() from None

    def line(self, most: int = 0) -> bytes:
        """See `Talk.line`."""
        searched = 0
        while (found := self._heard.find(b"\n", searched)) < 0:
            searched = len(self._heard)
            if most and searched > most:
                raise TenantAnswerError(f"`{self._name}` says more in one line than the {most} bytes that are read.")
            self._heard += self._piece()
        line = bytes(self._heard[:found])
        del self._heard[: found + 1]
        return line

    def _piece(self) -> bytes:
        kind = _LIFE[0]
        try:
            # A control frame must not restart the wait, so the time left is computed for each.
            while kind in _LIFE:
                self._of.settimeout(self._left())
                kind, piece = self._of.recv_data(control_frame=True)
        except websocket.WebSocketTimeoutException:
            raise self._late() from None
        except (websocket.WebSocketException, OSError):
            kind, piece = websocket.ABNF.OPCODE_CLOSE, b""
        if kind != websocket.ABNF.OPCODE_BINARY or not piece:
            raise self._ended()
        self._bytes += len(piece)
        if self._bytes > self._limit:
            raise TenantAnswerError(f"`{self._name}` answers more than the {self._limit} bytes that are read of it.")
        found: bytes = piece
        return found

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> TenantAnswerError:
        return TenantAnswerError(f"`{self._name}` did not answer within {self._timeout:.0f} seconds.")
