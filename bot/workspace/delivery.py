"""Delivers envelopes to the app, times its acks as Slack does, and injects faults on demand."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bot.workspace.errors import BadRequest, RateLimited, SlackError
from bot.workspace.people import Json

log = logging.getLogger(__name__)

ACK_SECONDS = 3.0


@dataclass(frozen=True)
class Ack:
    """The app's answer: milliseconds since the envelope was sent, and the payload, or why there is no answer.

    `error` is "" (acknowledged in time), `operation_timeout`, or `dispatch_failed` (no app took the envelope).
    """

    ms: float | None
    payload: Json
    error: str = ""


class Unreachable(Exception):
    """No app is connected to take the envelope, or the app refused it."""


class Transport(Protocol):
    async def send(self, kind: str, payload: Json, retry: int, reason: str) -> Json:
        """Send one envelope, wait for its ack, and return the ack's payload. Raises Unreachable."""


@dataclass
class Faults:
    """The faults to inject next; counters run down to 0."""

    limits: bool = True
    user_groups: bool = True
    """False: the workspace is on a free plan, which has no user groups."""
    rate_limit: dict[str, list[int]] = field(default_factory=dict)
    fail: dict[str, tuple[str, int]] = field(default_factory=dict)
    drop_acks: int = 0
    late_acks: int = 0
    late_seconds: float = 0.0
    redeliver: int = 0
    api_down: int = 0

    def configure(self, wanted: Json) -> None:
        """Apply the body of POST /_control/faults, except `disconnect`; raise BadRequest for an unknown fault."""
        if wanted.get("reset"):
            vars(self).update(vars(Faults()))
        for name, value in wanted.items():
            match name, value:
                case (("reset" | "disconnect" | "warning_seconds"), _):
                    pass
                case (("limits" | "user_groups"), bool()):
                    setattr(self, name, value)
                case ("rate_limit", {"method": str(method)}):
                    self.rate_limit[method] = [value.get("count", 1), value.get("retry_after", 1)]
                case ("fail", {"method": str(method), "error": str(error)}):
                    self.fail[method] = (error, value.get("count", 1))
                case ("late_acks", {"count": int(count), "seconds": int() | float() as seconds}):
                    self.late_acks, self.late_seconds = count, seconds
                case (("drop_acks" | "redeliver" | "api_down"), int()):
                    setattr(self, name, value)
                case _:
                    raise BadRequest(f"There is no fault {name!r} of that form.")

    def before_call(self, method: str) -> None:
        """Raise RateLimited or another SlackError if a fault is due for this Web API method."""
        count, seconds = self.rate_limit.get(method, (0, 0))
        if count:
            self.rate_limit[method][0] -= 1
            raise RateLimited(seconds)
        error, times = self.fail.get(method, ("", 0))
        if times:
            self.fail[method] = (error, times - 1)
            raise SlackError(error)

    def take(self, name: str) -> bool:
        """Return whether a fault of that name is due, and count it down."""
        left: int = getattr(self, name)
        if left:
            setattr(self, name, left - 1)
        return left > 0


class Delivery:
    """Sends slash commands, interactions and events over one transport.

    `retry_delays`: seconds before each retry of an event that was not acknowledged (Slack: 0, 60, 300).
    """

    def __init__(self, transport: Transport, faults: Faults, retry_delays: Sequence[float]) -> None:
        self.transport = transport
        self.faults = faults
        self.retry_delays = retry_delays
        self._tasks: set[asyncio.Task[Any]] = set()

    async def deliver(self, kind: str, payload: Json, retry: int = 0, reason: str = "") -> Ack:
        """Deliver an envelope once (twice while a `redeliver` fault is due) and return its ack."""
        if not retry and self.faults.take("redeliver"):
            self.spawn(self._send(kind, payload, retry, reason))
        drop, late = self.faults.take("drop_acks"), self.faults.take("late_acks")
        held = ACK_SECONDS if drop else self.faults.late_seconds if late else 0.0
        started = time.monotonic()
        try:
            async with asyncio.timeout(ACK_SECONDS):
                answer = await self.transport.send(kind, payload, retry, reason)
                ms = (time.monotonic() - started) * 1000
                if held:
                    await asyncio.sleep(held)
                    ms += held * 1000
        except TimeoutError:
            return Ack(None, {}, "operation_timeout")
        except Unreachable:
            return Ack(None, {}, "dispatch_failed")
        return Ack(round(ms, 2), answer)

    def event(self, payload: Json) -> None:
        """Deliver an event in the background, with Slack's retries."""
        self.spawn(self._with_retries(payload))

    async def _with_retries(self, payload: Json) -> None:
        ack = await self.deliver("events_api", payload)
        for attempt, delay in enumerate(self.retry_delays, start=1):
            if not ack.error:
                return
            await asyncio.sleep(delay)
            reason = "http_timeout" if ack.error == "operation_timeout" else "http_error"
            ack = await self.deliver("events_api", payload, attempt, reason)
        if ack.error:
            log.warning("event %s was never acknowledged", payload["event_id"])

    async def _send(self, kind: str, payload: Json, retry: int, reason: str) -> None:
        try:
            async with asyncio.timeout(ACK_SECONDS):
                await self.transport.send(kind, payload, retry, reason)
        except (TimeoutError, Unreachable):
            log.info("a second delivery was not acknowledged")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine in the background, at most until `close`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
