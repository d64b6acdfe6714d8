"""Simulates what people do (commands, messages, clicks and modals), and sends the app its payloads."""

import secrets
import time
from typing import Any

from bot.workspace import block_kit, inputs
from bot.workspace.delivery import Ack, Delivery
from bot.workspace.errors import BadRequest, SlackError
from bot.workspace.events import Events
from bot.workspace.files import Files
from bot.workspace.manifest import Manifest
from bot.workspace.people import APP_ID, BOT_USER, TEAM, TEAM_DOMAIN, Json
from bot.workspace.state import State, public
from bot.workspace.typed import as_sent, escape
from bot.workspace.views import Views

_NO_MODAL = "We had some trouble connecting. Try again?"


class Interactions:
    """One method for each thing that a person can do; each returns what that person would see."""

    def __init__(
        self, state: State, delivery: Delivery, events: Events, files: Files, manifest: Manifest, base_url: str
    ) -> None:
        self.state = state
        self.files = files
        self.delivery = delivery
        self.events = events
        self.manifest = manifest
        self.base_url = base_url
        self.views = Views(state)

    # A person's actions

    async def command(self, user: Json, place: Json, typed: str) -> Json:
        """Run a slash command; `messages` in the result holds the ephemeral message of the ack, if there is one."""
        name, _, words = typed.strip().partition(" ")
        if not name.startswith("/"):
            raise BadRequest('A command starts with "/".')
        _must_be_member(user, place)
        command = self.manifest.commands.get(name)
        if command is None:
            return {"ok": False, "error": f"{name} is not a valid command", "messages": []}
        if user["team_id"] != TEAM:
            return {"ok": False, "error": f"{name} is not available outside {TEAM_DOMAIN}", "messages": []}
        text = words.strip()
        text = as_sent(self.state, text, labels=True) if command.get("should_escape") else escape(text)
        ack = await self.delivery.deliver(
            "slash_commands",
            {
                "token": "local",
                "team_id": TEAM,
                "team_domain": TEAM_DOMAIN,
                "channel_id": place["id"],
                "channel_name": "directmessage" if place["is_im"] else place["name"],
                "user_id": user["id"],
                "user_name": user["name"],
                "command": name,
                "text": text,
                "api_app_id": APP_ID,
                "is_enterprise_install": "false",
                "response_url": self._response_url(user["id"], place["id"]),
                "trigger_id": self.views.new_trigger(user["id"]),
            },
        )
        if ack.error == "operation_timeout":
            return _seen(ack, f"{name} failed because the app did not respond (operation_timeout)")
        if ack.error:
            return _seen(ack, f'{name} failed with the error "{ack.error}"')
        try:
            said = self._say_ack(ack.payload, user["id"], place["id"])
        except SlackError as refused:
            return _seen(ack, f'{name} failed with the error "{refused.code}"')
        return _seen(ack) | {"messages": said}

    def message(
        self,
        user: Json,
        place: Json,
        typed: str,
        thread_ts: str | None,
        *,
        broadcast: bool = False,
        file: str | None = None,
    ) -> Json:
        """Post a typed message; the app learns of it by its events.

        `broadcast`: a reply with "Also send to #channel"; `file`: the name of an empty file to attach.
        """
        _must_be_member(user, place)
        if not typed.strip():
            raise BadRequest("A message needs some text.")
        if thread_ts:
            root = self.state.find(place["id"], thread_ts)
            thread_ts = root.get("thread_ts", root["ts"])
        message = self.state.add_message(
            place["id"],
            user["id"],
            text=as_sent(self.state, typed, labels=False),
            thread_ts=thread_ts,
            client_msg_id=secrets.token_hex(16),
            parent_user_id=self.state.find(place["id"], thread_ts)["user"] if thread_ts else None,
            subtype="thread_broadcast" if thread_ts and broadcast else "file_share" if file else None,
            files=[self.files.shared_by(user["id"], file)] if file else None,
        )
        self.events.posted(message)
        return {"ok": True, "ts": message["ts"]}

    def edit(self, user: Json, place: Json, ts: str, typed: str) -> Json:
        """Edit a message that this person has posted; raise SlackError for another author's."""
        message = self.state.find(place["id"], ts)
        if message["user"] != user["id"]:
            raise SlackError("cant_update_message")
        before = dict(message)
        message["text"] = as_sent(self.state, typed, labels=False)
        message["edited"] = {"user": user["id"], "ts": self.state.next_ts()}
        self.state.change_message(message)
        self.events.changed(message, before)
        return {"ok": True, "ts": ts}

    async def click(self, user: Json, place: Json, ts: str, action_id: str, chosen: Any) -> Json:
        """Use an interactive element of a message."""
        _must_be_member(user, place)
        message = self.state.find(place["id"], ts)
        if message.get("_to", user["id"]) != user["id"]:
            raise SlackError("message_not_found")
        blocks = block_kit.all_blocks(message)
        action, block_id = self.views.action(blocks, action_id, chosen, (f"{place['id']}/{ts}", user["id"]))
        container: Json = {
            "type": "message",
            "message_ts": ts,
            "channel_id": place["id"],
            "is_ephemeral": "_to" in message,
        }
        if message.get("thread_ts"):
            container["thread_ts"] = message["thread_ts"]
        payload = self._interaction("block_actions", user) | {
            "container": container,
            "channel": {"id": place["id"], "name": "directmessage" if place["is_im"] else place["name"]},
            "state": {"values": self.views.values(blocks, (f"{place['id']}/{ts}", user["id"]))},
            "response_url": self._response_url(user["id"], place["id"], message),
            "actions": [action | {"block_id": block_id}],
        }
        if "_to" not in message:
            payload["message"] = public(message)
        return _pressed(await self.delivery.deliver("interactive", payload))

    async def click_in_view(self, user: Json, view_id: str, action_id: str, chosen: Any) -> Json:
        """Use an interactive element of an open modal, or of the Home tab."""
        view = self.views.open_to(user, view_id)
        action, block_id = self.views.action(view["blocks"], action_id, chosen, (view_id, user["id"]))
        view["state"] = {"values": self.views.values(view["blocks"], (view_id, user["id"]))}
        payload = self._interaction("block_actions", user, from_view=view_id) | {
            "container": {"type": "view", "view_id": view_id},
            "view": public(view),
            "actions": [action | {"block_id": block_id}],
        }
        return _pressed(await self.delivery.deliver("interactive", payload))

    async def submit(self, user: Json, view_id: str, given: Json) -> Json:
        """Submit a modal. `errors` in the result: {block_id: text} that the person sees below the fields."""
        view = self.views.open_to(user, view_id)
        key = (view_id, user["id"])
        for block, element in inputs.elements(view["blocks"]):
            for answers in (given.get(block["block_id"]), given):
                if isinstance(answers, dict) and element["action_id"] in answers:
                    self.views.touch(key, block, element, answers[element["action_id"]])
                    break
        values = self.views.values(view["blocks"], key)
        errors: dict[str, str] = {}
        for block in view["blocks"]:
            if block["type"] == "input":
                text = inputs.complaint(block, values[block["block_id"]][block["element"]["action_id"]])
                errors |= {block["block_id"]: text} if text else {}
        if errors:
            return {"ok": False, "errors": errors, "error": "Some fields are not right."}
        view["state"] = {"values": values}
        payload = self._interaction("view_submission", user, from_view=view_id)
        ack = await self.delivery.deliver("interactive", payload | {"view": public(view), "response_urls": []})
        if ack.error:
            return _seen(ack, _NO_MODAL)
        try:
            return self._after_submit(user, view, ack)
        except SlackError as refused:
            return _seen(ack, _NO_MODAL) | {"detail": refused.body}

    async def close(self, user: Json, view_id: str, everything: bool = False) -> Json:
        """Close a modal by hand, or all with `everything`; tell the app if it asked for that (`notify_on_close`)."""
        view = self.views.open_to(user, view_id)
        stack = self.state.stacks[user["id"]]
        kept = [] if everything or view["clear_on_close"] else stack[: stack.index(view_id)]
        self.state.set_stack(user["id"], kept)
        if view["notify_on_close"]:
            payload = self._interaction("view_closed", user)
            payload.pop("trigger_id")
            closed = payload | {"view": public(view), "is_cleared": everything}
            self.delivery.spawn(self.delivery.deliver("interactive", closed))
        return {"ok": True}

    # Parts

    def _say_ack(self, payload: Json, user_id: str, channel_id: str) -> list[Json]:
        """Post the message in a command's ack, if there is one; return it if only this person sees it."""
        if not (payload.get("text") or payload.get("blocks") or payload.get("attachments")):
            return []
        content = block_kit.message_content(payload)
        to = None if payload.get("response_type") == "in_channel" else user_id
        message = self.state.add_message(channel_id, BOT_USER, to=to, **content)
        if not to:
            self.events.posted(message)
        return [public(message)] if to else []

    def _after_submit(self, user: Json, view: Json, ack: Ack) -> Json:
        answer, seen = ack.payload, _seen(ack)
        match answer.get("response_action"):
            case None:
                stack = self.state.stacks[user["id"]]
                self.state.set_stack(user["id"], stack[: stack.index(view["id"])])
            case "clear":
                self.state.set_stack(user["id"], [])
            case "errors":
                known = {block["block_id"] for block in view["blocks"] if block["type"] == "input"}
                errors = answer.get("errors")
                if not isinstance(errors, dict) or not errors or set(errors) - known:
                    raise SlackError("invalid_arguments")
                return seen | {"ok": False, "errors": errors, "error": "Some fields are not right."}
            case "update":
                wanted = block_kit.view(answer.get("view"), "modal")
                self.views.update_view(view, wanted)
            case "push":
                self.views.push_view(user["id"], block_kit.view(answer.get("view"), "modal"))
            case _:
                raise SlackError("invalid_arguments")
        return seen

    def _response_url(self, user_id: str, channel_id: str, message: Json | None = None) -> str:
        key = secrets.token_hex(16)
        self.state.save_response_url(
            key,
            {
                "user": user_id,
                "channel": channel_id,
                "ts": message["ts"] if message else None,
                "made": time.time(),
                "uses": 0,
            },
        )
        return f"{self.base_url}/response/{key}"

    def _interaction(self, kind: str, user: Json, from_view: str | None = None) -> Json:
        return {
            "type": kind,
            "token": "local",
            "api_app_id": APP_ID,
            "team": {"id": TEAM, "domain": TEAM_DOMAIN},
            "enterprise": None,
            "is_enterprise_install": False,
            "user": {
                "id": user["id"],
                "username": user["name"],
                "name": user["name"],
                "team_id": user["team_id"],
            },
            "trigger_id": self.views.new_trigger(user["id"], from_view),
        }


def _must_be_member(user: Json, place: Json) -> None:
    if user["id"] not in place["members"]:
        raise SlackError("channel_not_found")


def _seen(ack: Ack, error: str | None = None) -> Json:
    seen: Json = {"ok": not error, "ack_ms": ack.ms}
    return seen | ({"error": error, "messages": []} if error else {})


def _pressed(ack: Ack) -> Json:
    failed = ack.error and f"mautic did not respond to that ({ack.error}). Try again?"
    seen = _seen(ack, failed or None)
    seen.pop("messages", None)
    return seen
