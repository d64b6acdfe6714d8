"""Socket Mode: the app's WebSockets, one envelope to one of them, in turn."""

import asyncio
import json
import secrets
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from bot.workspace.delivery import Unreachable
from bot.workspace.errors import SlackError
from bot.workspace.people import APP_ID, Json

MAX_CONNECTIONS = 10
WARNING_SECONDS = 10.0  # between a `disconnect` with reason `warning` and the end of the connection
REFRESH_SECONDS = 0.5


@dataclass(eq=False)
class Connection:
    ws: web.WebSocketResponse
    request: web.Request
    leaving: bool = False
    waiting: dict[str, asyncio.Future[Json]] = field(default_factory=dict)


class SocketMode:
    """The transport to apps that called apps.connections.open."""

    def __init__(self) -> None:
        self.tickets: set[str] = set()
        self.connections: list[Connection] = []
        self._turn = 0
        self._closing: set[asyncio.Future[bool]] = set()

    def open(self) -> str:
        """A new single-use ticket; SlackError `too_many_websockets` at ten connections."""
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
            await connection.ws.send_str(json.dumps(envelope))
            return await acked
        except ConnectionError:
            raise Unreachable from None
        finally:
            connection.waiting.pop(envelope["envelope_id"], None)

    def _next(self) -> Connection:
        # One that was told to leave is used only while there is no other.
        usable = [c for c in self.connections if not c.leaving] or self.connections
        if not usable:
            raise Unreachable
        self._turn += 1
        return usable[self._turn % len(usable)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /link/?ticket=…"""
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

    async def disconnect(self, reason: str) -> None:
        """End every connection: after notice (`warning`, `refresh_requested`), or `hard`, with none."""
        for connection in list(self.connections):
            if reason == "hard":
                self.connections.remove(connection)
                if connection.request.transport:
                    connection.request.transport.abort()
                continue
            connection.leaving = True
            await connection.ws.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "local"}})
            seconds = WARNING_SECONDS if reason == "warning" else REFRESH_SECONDS
            asyncio.get_running_loop().call_later(seconds, self._end, connection)

    def _end(self, connection: Connection) -> None:
        closing = asyncio.ensure_future(connection.ws.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*(connection.ws.close() for connection in self.connections))
