"""Serves `/_control/`: what people do and see in the workspace, for the chat page and the tests."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from bot.workspace.delivery import Faults
from bot.workspace.errors import BadRequest, SlackError
from bot.workspace.events import Events
from bot.workspace.interactions import Interactions
from bot.workspace.people import Json
from bot.workspace.socket_mode import WARNING_SECONDS, SocketMode
from bot.workspace.state import State, public

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def plain_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer BadRequest with 400, and Slack's refusals with 200, with `ok` false and the reason in `error`."""
    try:
        return await handler(request)
    except BadRequest as refused:
        return web.json_response({"ok": False, "error": str(refused)}, status=400)
    except SlackError as refused:
        return web.json_response(refused.body)


class Control:
    """The handlers of `/_control/`.

    `commands_file`: the bot's list of subcommands, read at each request; the file is missing until the bot writes it.
    """

    def __init__(
        self,
        state: State,
        interactions: Interactions,
        events: Events,
        faults: Faults,
        socket_mode: SocketMode,
        commands_file: Path | None,
    ) -> None:
        self.state = state
        self.interactions = interactions
        self.events = events
        self.faults = faults
        self.socket_mode = socket_mode
        self.commands_file = commands_file

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_control/command", self.command),
            web.post("/_control/message", self.message),
            web.post("/_control/edit", self.edit),
            web.post("/_control/click", self.click),
            web.post("/_control/submit", self.submit),
            web.post("/_control/close", self.close),
            web.post("/_control/home", self.open_home),
            web.post("/_control/group", self.set_group),
            web.post("/_control/channel", self.set_channel),
            web.post("/_control/faults", self.set_faults),
            web.get("/_control/messages", self.messages),
            web.get("/_control/views", self.views),
            web.get("/_control/home", self.home),
            web.get("/_control/users", self.users),
            web.get("/_control/channels", self.channels),
            web.get("/_control/commands", self.commands),
            web.get("/_control/events", self.watch),
        ]

    # What people do

    async def command(self, request: web.Request) -> web.Response:
        body, user = await self._body(request, "channel", "text")
        place = self.state.channel(body["channel"], user["id"])
        return web.json_response(await self.interactions.command(user, place, body["text"]))

    async def message(self, request: web.Request) -> web.Response:
        body, user = await self._body(request, "channel", "text")
        place = self.state.channel(body["channel"], user["id"])
        text, thread_ts, too = body["text"], body.get("thread_ts"), bool(body.get("broadcast"))
        seen = self.interactions.message(user, place, text, thread_ts, broadcast=too, file=body.get("file"))
        return web.json_response(seen)

    async def edit(self, request: web.Request) -> web.Response:
        body, user = await self._body(request, "channel", "ts", "text")
        place = self.state.channel(body["channel"], user["id"])
        return web.json_response(self.interactions.edit(user, place, body["ts"], body["text"]))

    async def click(self, request: web.Request) -> web.Response:
        body, user = await self._body(request, "action_id")
        chosen = body.get("selected", body.get("value"))
        if body.get("view_id"):
            seen = await self.interactions.click_in_view(user, body["view_id"], body["action_id"], chosen)
        else:
            place = self.state.channel(_field(body, "channel"), user["id"])
            seen = await self.interactions.click(user, place, _field(body, "ts"), body["action_id"], chosen)
        return web.json_response(seen)

    async def submit(self, request: web.Request) -> web.Response:
        body, user = await self._body(request, "view_id")
        seen = await self.interactions.submit(user, body["view_id"], body.get("values") or {})
        return web.json_response(seen)

    async def close(self, request: web.Request) -> web.Response:
        body, user = await self._body(request, "view_id")
        return web.json_response(await self.interactions.close(user, body["view_id"], everything=bool(body.get("all"))))

    async def open_home(self, request: web.Request) -> web.Response:
        _, user = await self._body(request)
        self.events.home_opened(user["id"])
        return web.json_response({"ok": True})

    async def set_group(self, request: web.Request) -> web.Response:
        body = await _json(request)
        users = body.get("users")
        if not isinstance(users, list):
            raise BadRequest("'users' is missing.")
        self.events.group_changed(*self.state.set_group(_field(body, "group"), users))
        return web.json_response({"ok": True})

    async def set_channel(self, request: web.Request) -> web.Response:
        body = await _json(request)
        archived, has_bot = bool(body.get("archived")), bool(body.get("bot", True))
        self.state.set_channel(_field(body, "channel"), archived=archived, has_bot=has_bot)
        return web.json_response({"ok": True})

    async def set_faults(self, request: web.Request) -> web.Response:
        body = await _json(request)
        reason, seconds = body.get("disconnect"), body.get("warning_seconds", WARNING_SECONDS)
        if reason not in (None, "warning", "refresh_requested", "hard", "half_open"):
            raise BadRequest(f"There is no disconnect {reason!r}.")
        self.faults.configure(body)
        if reason:
            await self.socket_mode.disconnect(reason, seconds)
        return web.json_response({"ok": True, "connections": len(self.socket_mode.connections)})

    # What people see

    async def messages(self, request: web.Request) -> web.Response:
        viewer = self._viewer(request)
        place = self.state.channel(request.query.get("channel", ""), viewer)
        if viewer and viewer not in place["members"]:
            raise SlackError("channel_not_found")
        thread_ts = request.query.get("thread_ts")
        if thread_ts:
            found = self.state.thread(place["id"], thread_ts, viewer)
        else:
            found = self.state.roots(place["id"], viewer)
        return web.json_response({"ok": True, "messages": [public(message) for message in found]})

    async def views(self, request: web.Request) -> web.Response:
        user = self.state.user(request.query.get("user", ""))
        stack = [public(view) for view in self.state.stack(user["id"])]
        return web.json_response({"ok": True, "views": stack})

    async def home(self, request: web.Request) -> web.Response:
        user = self.state.user(request.query.get("user", ""))
        view = self.state.views.get(self.state.homes.get(user["id"], ""))
        return web.json_response({"ok": True, "view": public(view) if view else None})

    async def users(self, request: web.Request) -> web.Response:
        people = []
        for user in self.state.users.values():
            person = {key: user[key] for key in ("id", "name", "real_name", "team_id", "is_restricted", "is_bot")}
            member = [group["handle"] for group in self.state.groups.values() if user["id"] in group["users"]]
            people.append(person | {"title": user["profile"]["title"], "groups": member})
        groups = {group["id"]: group["handle"] for group in self.state.groups.values()}
        return web.json_response({"ok": True, "users": people, "groups": groups})

    async def channels(self, request: web.Request) -> web.Response:
        shown = ("id", "name", "is_ext_shared", "is_private", "is_im", "members")
        places = [{key: place[key] for key in shown} for place in self.state.channels.values()]
        return web.json_response({"ok": True, "channels": places})

    async def commands(self, request: web.Request) -> web.Response:
        subcommands: list[Json] = []
        if self.commands_file and self.commands_file.exists():
            subcommands = json.loads(self.commands_file.read_text())
        commands = [
            {
                "command": name,
                "description": command.get("description", ""),
                "usage_hint": command.get("usage_hint", ""),
                "subcommands": subcommands,
            }
            for name, command in self.interactions.manifest.commands.items()
        ]
        return web.json_response({"ok": True, "commands": commands})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Stream changes as Server-Sent Events: those that the person `user` may see, or without `user` all."""
        viewer = self._viewer(request) or ""
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self.state.watchers[queue] = viewer
        try:
            await stream.write(b": watching\n\n")
            while True:
                try:
                    change = await asyncio.wait_for(queue.get(), timeout=15)
                    await stream.write(f"data: {json.dumps(change)}\n\n".encode())
                except TimeoutError:
                    await stream.write(b": still here\n\n")
        except ConnectionError:
            return stream
        finally:
            del self.state.watchers[queue]

    # Parts

    async def _body(self, request: web.Request, *required: str) -> tuple[Json, Json]:
        body = await _json(request)
        for name in required:
            _field(body, name)
        return body, self.state.user(_field(body, "user"))

    def _viewer(self, request: web.Request) -> str | None:
        name = request.query.get("user")
        return self.state.user(name)["id"] if name else None


async def _json(request: web.Request) -> Json:
    try:
        body: Any = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _field(body: Json, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name!r} is missing.")
    return value
