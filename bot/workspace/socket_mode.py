"""Delivers over Socket Mode: each envelope goes to one of the app's WebSockets, in turn."""

import asyncio
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from bot.workspace.delivery import ACK_SECONDS, Unreachable
from bot.workspace.errors import SlackError
from bot.workspace.people import APP_ID, Json

MAX_CONNECTIONS = 10
WARNING_SECONDS = 10.0  # between a `disconnect` with reason `warning` and `refresh_requested`
REFRESH_SECONDS = 0.5  # between `refresh_requested` and the end of the connection


@dataclass(eq=False)
class Connection:
    """One WebSocket of the app, with the futures of its unacknowledged envelopes by id (`waiting`).

    `leaving`: the app was told to leave it; `ended`: it gets no more envelopes; `dead`: envelopes are lost, unnoticed.
    """

    ws: web.WebSocketResponse
    request: web.Request
    leaving: bool = False
    ended: bool = False
    dead: bool = False
    waiting: dict[str, asyncio.Future[Json]] = field(default_factory=dict)


class SocketMode:
    """The transport to apps that called apps.connections.open.

    Slack does not document whether it still delivers into a connection that it has asked to leave. This class does, in
    turn with the others, until shortly before it ends that connection: an app that does not read an old connection to
    its end loses deliveries.
    """

    def __init__(self) -> None:
        self.tickets: set[str] = set()
        self.connections: list[Connection] = []
        self._turn = 0
        self._leaving: set[asyncio.Task[None]] = set()

    def open(self) -> str:
        """Return a new single-use ticket; raise SlackError `too_many_websockets` at ten connections."""
        if len(self.connections) >= MAX_CONNECTIONS:
            raise SlackError("too_many_websockets")
        ticket = secrets.token_hex(16)
        self.tickets.add(ticket)
        return ticket

    async def send(self, kind: str, payload: Json, retry: int, reason: str) -> Json:
        connection = self._next()
        envelope: Json = {
            "envelope_id": f"{secrets.token_hex(4)}-{secrets.token_hex(8)}",
            "type": kind,
            "payload": payload,
            "accepts_response_payload": kind != "events_api",
        }
        if kind == "events_api":
            envelope |= {"retry_attempt": retry, "retry_reason": reason}
        acked: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        connection.waiting[envelope["envelope_id"]] = acked
        try:
            if not connection.dead:
                await connection.ws.send_str(json.dumps(envelope))
            return await acked
        except ConnectionError:
            raise Unreachable from None
        finally:
            connection.waiting.pop(envelope["envelope_id"], None)

    def _next(self) -> Connection:
        usable = [connection for connection in self.connections if not connection.ended]
        if not usable:
            raise Unreachable
        self._turn += 1
        return usable[self._turn % len(usable)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve the WebSocket at `GET /link/?ticket=…`, until the app or the workspace closes it."""
        ticket = request.query.get("ticket", "")
        if ticket not in self.tickets:
            return web.Response(status=408, text="expired or unknown ticket")
        self.tickets.discard(ticket)
        # Clients drop a connection whose server sends no pings.
        ws = web.WebSocketResponse(compress=False, heartbeat=10, timeout=1.0)
        await ws.prepare(request)
        connection = Connection(ws, request)
        self.connections.append(connection)
        try:
            await ws.send_json(
                {
                    "type": "hello",
                    "num_connections": len(self.connections),
                    "debug_info": {
                        "host": "local",
                        "build_number": 1,
                        "approximate_connection_time": 18060,
                    },
                    "connection_info": {"app_id": APP_ID},
                }
            )
            async for frame in ws:
                if frame.type is WSMsgType.TEXT:
                    self._acknowledge(connection, frame.data)
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
        return ws

    def _acknowledge(self, connection: Connection, text: str) -> None:
        try:
            body = json.loads(text)
            acked = connection.waiting.get(body.get("envelope_id", ""))
        except (ValueError, AttributeError):
            return
        if acked and not acked.done():
            acked.set_result(body.get("payload") or {})

    async def disconnect(self, reason: str, seconds: float = WARNING_SECONDS) -> None:
        """End every connection that is not leaving already.

        `refresh_requested`: after that notice; `warning`: after a warning, and that notice `seconds` later; `hard`:
        without notice; `half_open`: so that neither side notices, as behind a router that forgot the connection.
        """
        for connection in [one for one in self.connections if not one.leaving]:
            if reason == "hard":
                self.connections.remove(connection)
                if connection.request.transport:
                    connection.request.transport.abort()
            elif reason == "half_open":
                connection.dead = True
                if isinstance(connection.request.transport, asyncio.ReadTransport):
                    connection.request.transport.pause_reading()
            else:
                connection.leaving = True
                task = asyncio.create_task(self._end(connection, reason, seconds))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    async def _end(self, connection: Connection, reason: str, seconds: float) -> None:
        with suppress(ConnectionError):
            if reason == "warning":
                await self._tell(connection, "warning")
                await asyncio.sleep(seconds)
            await self._tell(connection, "refresh_requested")
            await asyncio.sleep(REFRESH_SECONDS)
        connection.ended = True
        # The app acknowledges each envelope on the connection that delivered it.
        with suppress(TimeoutError):
            async with asyncio.timeout(ACK_SECONDS):
                while connection.waiting:
                    await asyncio.sleep(0.01)
        await connection.ws.close()

    async def _tell(self, connection: Connection, reason: str) -> None:
        await connection.ws.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "local"}})

    async def close(self) -> None:
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*(connection.ws.close() for connection in self.connections))
