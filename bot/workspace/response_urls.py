"""Handles `POST /response/<id>`, the app's later answers to a command or click."""

import time

from aiohttp import web

from bot.workspace import block_kit
from bot.workspace.errors import SlackError
from bot.workspace.events import Events
from bot.workspace.people import BOT_USER, Json
from bot.workspace.state import State

MAX_USES = 5
MAX_SECONDS = 30 * 60


class ResponseUrls:
    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events

    async def handle(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        record = self.state.response_urls.get(key)
        if record is None:
            return web.json_response({"ok": False, "error": "invalid_url"}, status=404)
        if time.time() - record["made"] > MAX_SECONDS:
            return web.json_response({"ok": False, "error": "expired_url"}, status=404)
        if record["uses"] >= MAX_USES:
            return web.json_response({"ok": False, "error": "used_url"}, status=404)
        record["uses"] += 1
        self.state.save_response_url(key, record)
        try:
            body = await request.json()
            if not isinstance(body, dict):
                raise SlackError("invalid_payload")
            self._respond(record, body)
        except ValueError:
            return web.json_response({"ok": False, "error": "invalid_payload"}, status=400)
        except SlackError as refused:
            return web.json_response(refused.body)
        return web.json_response({"ok": True})

    def _respond(self, record: Json, body: Json) -> None:
        channel = record["channel"]
        original = self.state.messages.get(channel, {}).get(record["ts"] or "")
        if body.get("delete_original"):
            if original is None:
                raise SlackError("message_not_found")
            self.state.remove_message(original)
            return
        content = block_kit.message_content(body)
        if body.get("replace_original") and original is not None:
            before = dict(original)
            for name in ("text", "blocks", "attachments"):
                original.pop(name, None)
            original |= {name: value for name, value in content.items() if value}
            original.setdefault("text", "")
            self.state.change_message(original)
            if "_to" not in original:
                self.events.changed(original, before)
            return
        to = None if body.get("response_type") == "in_channel" else record["user"]
        message = self.state.add_message(channel, BOT_USER, to=to, thread_ts=body.get("thread_ts"), **content)
        if not to:
            self.events.posted(message)
