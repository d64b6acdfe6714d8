"""Slack's Socket Mode over overlapping connections: the next one is greeted before the leaving one is closed.

slack_sdk's clients close the old connection first. With websocket-client that takes up to a ping interval, in which the
bot receives nothing, and Slack does not send a command again. So this module manages the connections; the caller knows
what a delivery means and how to answer it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RDWR
from typing import Any

import websocket

log = logging.getLogger(__name__)
Json = dict[str, Any]

AT_A_TIME = 16
"""Deliveries that are stored at a time: those that wait for the disk together wait for it once. More threads would only
wait for the interpreter, and overtake each other."""
CONNECTING = 10.0
"""Seconds that a connection may take to be made, and as many to be greeted."""
QUIET = 3.0
"""Seconds of silence after which the bot pings a connection; Slack pings as often by itself."""
DOUBTED, GIVEN_UP = 2, 5
"""Quiet spells in a row until another connection is made, and until this one is given up."""
LEAVING = 30.0
"""Seconds that a leaving connection may stay beside another: Slack ends it some 10 s after its warning."""
AT_ONCE = 8
"""The most connections at once: Slack allows ten, and counts one that died behind a router unnoticed."""
STEADY = 10.0
"""Seconds after which a connection counts as stable; one that breaks sooner is not replaced at once."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds until a failed connection is tried again, and the most; the pause doubles each time."""


@dataclass(eq=False)
class _Link:
    """One connection. `leaving`: since when it is to be replaced (monotonic seconds; 0: it is not), and `why`."""

    socket: websocket.WebSocket
    made: float
    greeted: bool = False
    why: str = ""
    leaving: float = 0.0
    told: bool = False
    """Whether Slack announced the end with a warning or a refresh; False where the connection is silent."""
    closing: bool = False
    over: bool = False

    @property
    def serves(self) -> bool:
        return self.greeted and not self.leaving and not self.over

    def close(self) -> None:
        """Ask Slack to end the connection; from now on nothing that arrives can be acknowledged."""
        self.closing = True
        with suppress(websocket.WebSocketException, OSError):
            self.socket.send_close()

    def cut(self) -> None:
        """Shut the socket down."""
        with suppress(OSError):
            if self.socket.sock:
                self.socket.sock.shutdown(SHUT_RDWR)


class SocketMode:
    """Keeps one connection for Slack's deliveries, and each leaving one until Slack has ended it.

    `open_url()` asks Slack for the address of a new connection, and raises when there is none. `answer(envelope)`
    returns the payload of the acknowledgement ({}: none), or None when the envelope is not to be acknowledged.
    """

    def __init__(self, open_url: Callable[[], str], answer: Callable[[Json], Json | None]) -> None:
        self._open_url = open_url
        self._answer = answer
        # To answer only writes a row: no acknowledgement queues behind long work.
        self._workers = ThreadPoolExecutor(AT_A_TIME, "delivery")
        self._in_hand: set[Future[None]] = set()
        self._links: list[_Link] = []
        self._changed = threading.Condition()
        self._ending = False
        self._keeper = threading.Thread(target=self._keep, name="socket-mode", daemon=True)

    def connect(self, timeout: float = 30.0) -> None:
        """Connect, and return once Slack has greeted the bot: deliveries arrive from then on. Raises TimeoutError."""
        self._keeper.start()
        with self._changed:
            if not self._changed.wait_for(self._served, timeout):
                raise TimeoutError(f"Slack did not greet the bot within {timeout:.0f} s; is the app-level token right?")

    def close(self) -> None:
        """Take no more deliveries, acknowledge those in progress, and close the connections."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            links, in_hand = list(self._links), list(self._in_hand)
        wait(in_hand, 3)
        for link in links:
            link.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._links, 1)
        for link in links:
            link.cut()
        self._workers.shutdown(wait=False)

    def _served(self) -> bool:
        return any(link.serves for link in self._links)

    def _keep(self) -> None:
        """Keep one connection serving. Runs in a thread of its own, so that only one is made at a time."""
        failures = 0
        last: _Link | None = None
        while True:
            with self._changed:
                patience = 1 if any(link.leaving for link in self._links) else None
                self._changed.wait_for(lambda: self._ending or not self._served(), patience)
                if self._ending:
                    return
                served = self._served()
            self._let_go(served)
            if served:
                continue
            if last:
                holds = last.told or time.monotonic() - last.made > STEADY
                failures = 0 if holds else failures + 1
            if failures:
                pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
                log.warning("no connection to Slack; it is tried again in %g s", pause)
                with self._changed:
                    if self._changed.wait_for(lambda: self._ending, pause):
                        return
            try:
                last = self._make()
            except Exception as error:
                # Try again after any error: without a connection the bot receives nothing.
                log.warning("cannot connect to Slack: %s", error)
                last, failures = None, failures + 1

    def _make(self) -> _Link:
        """Make a connection and wait until Slack greets it. Raises ConnectionError."""
        # Decoding the JSON checks UTF-8 too; websocket-client's own check, in Python, took as long as all else here.
        socket = websocket.create_connection(self._open_url(), timeout=CONNECTING, skip_utf8_validation=True)
        link = _Link(socket, time.monotonic())
        socket.settimeout(QUIET)
        with self._changed:
            self._links.append(link)
        threading.Thread(target=self._read, args=(link,), name="socket-mode-reader", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: link.greeted or link.leaving or link.over or self._ending, CONNECTING)
        if not link.greeted and not self._ending:
            link.close()
            link.cut()
            raise ConnectionError(link.why or "Slack did not greet us")
        return link

    def _let_go(self, served: bool) -> None:
        """Close leaving connections: the oldest where there are too many, others after a while if another serves."""
        with self._changed:
            leaving = [link for link in self._links if link.leaving and not link.closing]
            surplus = len(self._links) - AT_ONCE
        for place, link in enumerate(leaving):
            if place < surplus or (served and time.monotonic() - link.leaving > LEAVING):
                link.close()

    def _leave(self, link: _Link, why: str, *, told: bool) -> None:
        """Have another connection made; this one is still read, and its deliveries are acknowledged on it."""
        with self._changed:
            if not link.leaving:
                link.leaving, link.why, link.told = time.monotonic(), why, told
                self._changed.notify_all()

    def _read(self, link: _Link) -> None:
        quiet = 0
        try:
            while quiet < GIVEN_UP:
                try:
                    opcode, data = link.socket.recv_data(control_frame=True)
                except websocket.WebSocketTimeoutException:
                    quiet += 1
                    if quiet >= DOUBTED:
                        self._leave(link, "it is silent", told=False)
                    link.socket.ping()
                    continue
                quiet = 0
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._hear(link, json.loads(data))
        except Exception as error:
            # A connection may break in any way; another takes its place.
            log.log(logging.INFO if link.leaving or self._ending else logging.WARNING, "a connection broke: %s", error)
        finally:
            link.socket.shutdown()  # type: ignore[no-untyped-call]
            with self._changed:
                link.over = True
                self._links.remove(link)
                self._changed.notify_all()

    def _hear(self, link: _Link, message: Json) -> None:
        match message:
            case {"type": "hello"}:
                with self._changed:
                    link.greeted = True
                    others = int(message.get("num_connections", 1)) - len(self._links)
                    self._changed.notify_all()
                if others > 0:
                    # Each delivery goes to one connection only: a connection that nobody reads swallows commands.
                    log.warning("the app has %s other connections; deliveries go to them too", others)
            case {"type": "disconnect"}:
                reason = str(message.get("reason", ""))
                self._leave(link, reason, told=reason in ("warning", "refresh_requested"))
            case {"envelope_id": _, "payload": _} if not link.closing:
                with self._changed:
                    if self._ending:
                        return
                    work = self._workers.submit(self._acknowledge, link, message)
                    self._in_hand.add(work)
                work.add_done_callback(self._in_hand.discard)

    def _acknowledge(self, link: _Link, envelope: Json) -> None:
        try:
            payload = self._answer(envelope)
            if payload is not None:
                answer = {"envelope_id": envelope["envelope_id"], **({"payload": payload} if payload else {})}
                # On the connection that the delivery came by: no other one knows its envelope.
                link.socket.send(json.dumps(answer))
        except Exception:
            log.exception("a delivery could not be answered")
