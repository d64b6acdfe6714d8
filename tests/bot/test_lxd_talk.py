"""A conversation with a command inside an instance ends in time, whatever LXD itself says meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import websocket

from bot.lxd.protocol import TenantAnswerError
from bot.lxd.talk import Conversation

PING, PIECE, LINE = b"\x89\x00", b"\x82\x01x", b"\x82\x04end\n"


@pytest.fixture
def stream() -> Iterator[tuple[websocket.WebSocket, socket.socket]]:
    """A WebSocket, and the other side of it."""
    here, there = socket.socketpair()
    made = websocket.WebSocket()
    made.sock, made.connected = here, True
    with here, there:
        yield made, there


@pytest.mark.parametrize("frame", [PING, PIECE])
def test_neither_pings_nor_parts_of_a_line_extend_the_deadline(
    stream: tuple[websocket.WebSocket, socket.socket], frame: bytes
) -> None:
    """LXD sends a ping every few seconds, and each one used to restart the wait for an answer."""
    made, there = stream
    ended = threading.Event()

    def speak() -> None:
        with suppress(OSError):
            while not ended.wait(0.05):
                there.sendall(frame)
                with suppress(BlockingIOError):
                    there.recv(4096, socket.MSG_DONTWAIT)

    thread = threading.Thread(target=speak)
    thread.start()
    # Ends the test if the deadline is extended for ever.
    watch = threading.Timer(20, ended.set)
    watch.start()
    talk = Conversation({"0": made, "1": made}, "client-x", _in_seconds(0.5), 0.5, 1000, _ended)
    with pytest.raises(TenantAnswerError, match="did not answer within"):
        talk.line()
    assert not ended.is_set()
    watch.cancel()
    ended.set()
    thread.join()


def test_an_answer_between_pings_is_read(stream: tuple[websocket.WebSocket, socket.socket]) -> None:
    made, there = stream
    there.sendall(PING + PIECE + PING + LINE)
    talk = Conversation({"0": made, "1": made}, "client-x", _in_seconds(20), 20, 1000, _ended)
    assert talk.line() == b"xend"


def test_a_line_beyond_the_limit_is_refused(stream: tuple[websocket.WebSocket, socket.socket]) -> None:
    made, there = stream
    there.sendall(PIECE * 9 + LINE)
    talk = Conversation({"0": made, "1": made}, "client-x", _in_seconds(20), 20, 1000, _ended)
    with pytest.raises(TenantAnswerError, match="more in one line than the 5 bytes"):
        talk.line(5)


def _in_seconds(seconds: float) -> float:
    return time.monotonic() + seconds


def _ended() -> TenantAnswerError:
    return TenantAnswerError("it ended")
