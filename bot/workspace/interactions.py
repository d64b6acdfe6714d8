"""What people do: commands, messages, presses and modals, and the payloads the app gets of them."""

import copy
import secrets
import time
from dataclasses import dataclass
from typing import Any

from bot.workspace import block_kit, inputs
from bot.workspace.delivery import Ack, Delivery
from bot.workspace.errors import BadRequest, SlackError
from bot.workspace.events import Events
from bot.workspace.files import Files
from bot.workspace.manifest import Manifest
from bot.workspace.people import APP_ID, BOT_ID, BOT_USER, TEAM, TEAM_DOMAIN, Json
from bot.workspace.state import State, public
from bot.workspace.typed import as_sent, escape

TRIGGER_SECONDS = 3.0
STACK_LIMIT = 3

_NO_MODAL = "We had some trouble connecting. Try again?"


@dataclass
class Trigger:
    user: str
    made: float
    from_view: str | None
    used: bool = False


class Interactions:
    """One method for each thing a person can do; each answers what that person would see."""

    def __init__(
        self, state: State, delivery: Delivery, events: Events, files: Files, manifest: Manifest, base_url: str
    ) -> None:
        self.state = state
        self.files = files
        self.delivery = delivery
        self.events = events
        self.manifest = manifest
        self.base_url = base_url
        self.triggers: dict[str, Trigger] = {}
        self.touched: dict[tuple[str, str], Json] = {}  # (message or view, user) -> state.values

    # A person's doings

    async def command(self, user: Json, place: Json, typed: str) -> Json:
        """A slash command; `messages` holds the ephemeral text of the ack, if it has any."""
        name, _, words = typed.strip().partition(" ")
        if not name.startswith("/"):
            raise BadRequest('A command starts with "/".')
        self._must_be_member(user, place)
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
                "trigger_id": self._trigger(user["id"]),
            },
        )
        if ack.error == "operation_timeout":
            return self._seen(ack, f"{name} failed because the app did not respond (operation_timeout)")
        if ack.error:
            return self._seen(ack, f'{name} failed with the error "{ack.error}"')
        try:
            said = self._say_ack(ack.payload, user["id"], place["id"])
        except SlackError as refused:
            return self._seen(ack, f'{name} failed with the error "{refused.code}"')
        return self._seen(ack) | {"messages": said}

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
        """A typed message; the app hears of it by its events.

        `broadcast`: a reply with "Also send to #channel"; `file`: with an (empty) file of that name beside it.
        """
        self._must_be_member(user, place)
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
        """Other words for a message that this person has posted."""
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
        """A press of an element of a message."""
        self._must_be_member(user, place)
        message = self.state.find(place["id"], ts)
        if message.get("_to", user["id"]) != user["id"]:
            raise SlackError("message_not_found")
        blocks = block_kit.all_blocks(message)
        action, block_id = self._action(blocks, action_id, chosen, (f"{place['id']}/{ts}", user["id"]))
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
            "state": {"values": self._values(blocks, (f"{place['id']}/{ts}", user["id"]))},
            "response_url": self._response_url(user["id"], place["id"], message),
            "actions": [action | {"block_id": block_id}],
        }
        if "_to" not in message:
            payload["message"] = public(message)
        return self._pressed(await self.delivery.deliver("interactive", payload))

    async def click_in_view(self, user: Json, view_id: str, action_id: str, chosen: Any) -> Json:
        """A press of an element of an open modal, or of the Home tab."""
        view = self._view(user, view_id)
        action, block_id = self._action(view["blocks"], action_id, chosen, (view_id, user["id"]))
        view["state"] = {"values": self._values(view["blocks"], (view_id, user["id"]))}
        payload = self._interaction("block_actions", user, from_view=view_id) | {
            "container": {"type": "view", "view_id": view_id},
            "view": public(view),
            "actions": [action | {"block_id": block_id}],
        }
        return self._pressed(await self.delivery.deliver("interactive", payload))

    async def submit(self, user: Json, view_id: str, given: Json) -> Json:
        """The modal's submit button. `errors`: {block_id: text} the person sees beneath the fields."""
        view = self._view(user, view_id)
        key = (view_id, user["id"])
        for block, element in inputs.elements(view["blocks"]):
            for answers in (given.get(block["block_id"]), given):
                if isinstance(answers, dict) and element["action_id"] in answers:
                    self._touch(key, block, element, answers[element["action_id"]])
                    break
        values = self._values(view["blocks"], key)
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
            return self._seen(ack, _NO_MODAL)
        try:
            return self._after_submit(user, view, ack)
        except SlackError as refused:
            return self._seen(ack, _NO_MODAL) | {"detail": refused.body}

    async def close(self, user: Json, view_id: str, everything: bool = False) -> Json:
        """Close a modal by hand; its app hears of it if it asked to (`notify_on_close`)."""
        view = self._view(user, view_id)
        stack = self.state.stacks[user["id"]]
        kept = [] if everything or view["clear_on_close"] else stack[: stack.index(view_id)]
        self.state.set_stack(user["id"], kept)
        if view["notify_on_close"]:
            payload = self._interaction("view_closed", user)
            payload.pop("trigger_id")
            closed = payload | {"view": public(view), "is_cleared": everything}
            self.delivery.spawn(self.delivery.deliver("interactive", closed))
        return {"ok": True}

    # Views, as the app asks for them

    def use_trigger(self, trigger_id: str) -> Trigger:
        """Spend a trigger; SlackError if it is unknown, older than 3 s or used."""
        trigger = self.triggers.get(trigger_id)
        if trigger is None:
            raise SlackError("invalid_trigger_id")
        if trigger.used:
            raise SlackError("exchanged_trigger_id")
        if time.monotonic() - trigger.made > TRIGGER_SECONDS:
            raise SlackError("expired_trigger_id")
        trigger.used = True
        return trigger

    def open_view(self, user_id: str, wanted: Json) -> Json:
        """A new stack of this one modal."""
        view = self._new_view(user_id, wanted)
        self.state.set_stack(user_id, [])
        self.state.save_view(view)
        self.state.set_stack(user_id, [view["id"]])
        return view

    def push_view(self, user_id: str, wanted: Json) -> Json:
        """A modal on top of the stack; SlackError `push_limit_reached` at three."""
        stack = self.state.stacks.get(user_id, [])
        if not stack:
            raise SlackError("invalid_trigger_id")
        if len(stack) >= STACK_LIMIT:
            raise SlackError("push_limit_reached")
        view = self._new_view(user_id, wanted)
        view |= {"previous_view_id": stack[-1], "root_view_id": stack[0]}
        self.state.save_view(view)
        self.state.set_stack(user_id, [*stack, view["id"]])
        return view

    def update_view(self, view: Json, wanted: Json, expected_hash: str | None = None) -> Json:
        """Replace what a modal shows; SlackError `hash_conflict` if it is not the one expected."""
        if expected_hash and expected_hash != view["hash"]:
            raise SlackError("hash_conflict")
        fresh = self._new_view(view["_user"], wanted)
        fresh |= {key: view[key] for key in ("id", "root_view_id", "previous_view_id")}
        fresh["state"] = {"values": self._values(fresh["blocks"], (view["id"], view["_user"]))}
        self.state.save_view(fresh)
        return fresh

    def publish_home(self, user_id: str, wanted: Json, expected_hash: str | None) -> Json:
        old = self.state.views.get(self.state.homes.get(user_id, ""))
        if old and expected_hash and expected_hash != old["hash"]:
            raise SlackError("hash_conflict")
        view = self._new_view(user_id, wanted)
        if old:
            view |= {"id": old["id"], "root_view_id": old["id"]}
        self.state.set_home(user_id, view)
        return view

    # Parts

    def _must_be_member(self, user: Json, place: Json) -> None:
        if user["id"] not in place["members"]:
            raise SlackError("channel_not_found")

    def _seen(self, ack: Ack, error: str | None = None) -> Json:
        seen: Json = {"ok": not error, "ack_ms": ack.ms}
        return seen | ({"error": error, "messages": []} if error else {})

    def _pressed(self, ack: Ack) -> Json:
        failed = ack.error and f"mautic did not respond to that ({ack.error}). Try again?"
        seen = self._seen(ack, failed or None)
        seen.pop("messages", None)
        return seen

    def _say_ack(self, payload: Json, user_id: str, channel_id: str) -> list[Json]:
        """Post the text of a command's ack, if it has any; the messages only this person sees."""
        if not (payload.get("text") or payload.get("blocks") or payload.get("attachments")):
            return []
        content = block_kit.message_content(payload)
        to = None if payload.get("response_type") == "in_channel" else user_id
        message = self.state.add_message(channel_id, BOT_USER, to=to, **content)
        if not to:
            self.events.posted(message)
        return [public(message)] if to else []

    def _after_submit(self, user: Json, view: Json, ack: Ack) -> Json:
        answer, seen = ack.payload, self._seen(ack)
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
                self.update_view(view, wanted)
            case "push":
                self.push_view(user["id"], block_kit.view(answer.get("view"), "modal"))
            case _:
                raise SlackError("invalid_arguments")
        return seen

    def _view(self, user: Json, view_id: str) -> Json:
        view = self.state.views.get(view_id)
        open_to_user = [*self.state.stacks.get(user["id"], []), self.state.homes.get(user["id"])]
        if view is None or view_id not in open_to_user:
            raise BadRequest(f"{user['name']} has no view {view_id!r} open.")
        return view

    def _new_view(self, user_id: str, wanted: Json) -> Json:
        view_id = f"V{secrets.token_hex(5).upper()}"
        view: Json = {
            "id": view_id,
            "team_id": TEAM,
            "type": wanted["type"],
            "blocks": block_kit.with_ids(wanted["blocks"]),
            "private_metadata": wanted.get("private_metadata", ""),
            "callback_id": wanted.get("callback_id", ""),
            "external_id": wanted.get("external_id", ""),
            "hash": f"{int(time.time())}.{secrets.token_hex(4)}",
            "title": wanted.get("title"),
            "submit": wanted.get("submit"),
            "close": wanted.get("close"),
            "submit_disabled": wanted.get("submit_disabled", False),
            "clear_on_close": wanted.get("clear_on_close", False),
            "notify_on_close": wanted.get("notify_on_close", False),
            "root_view_id": view_id,
            "previous_view_id": None,
            "app_id": APP_ID,
            "app_installed_team_id": TEAM,
            "bot_id": BOT_ID,
            "_user": user_id,
        }
        for other in self.state.views.values():
            if view["external_id"] and other["external_id"] == view["external_id"]:
                raise SlackError("duplicate_external_id")
        view["state"] = {"values": self._values(view["blocks"], (view_id, user_id))}
        return view

    def _trigger(self, user_id: str, from_view: str | None = None) -> str:
        now = time.monotonic()
        for old in [key for key, trigger in self.triggers.items() if now - trigger.made > 600]:
            del self.triggers[old]
        trigger_id = f"{int(time.time())}.{secrets.randbelow(10**9)}.{secrets.token_hex(16)}"
        self.triggers[trigger_id] = Trigger(user_id, now, from_view)
        return trigger_id

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
            "trigger_id": self._trigger(user["id"], from_view),
        }

    def _action(self, blocks: list[Json], action_id: str, chosen: Any, key: tuple[str, str]) -> tuple[Json, str]:
        block, element = inputs.find(blocks, action_id)
        if element["type"] == "button" and chosen not in (None, element.get("value")):
            raise BadRequest(f"The button {action_id!r} has another value.")
        action = {"type": element["type"], "action_id": action_id, "action_ts": self.state.next_ts()}
        action |= {name: element[name] for name in ("text", "value", "style", "url") if name in element}
        if element["type"] != "button":
            self._touch(key, block, element, chosen)
            action |= inputs.choice(element, chosen)
        return action, block["block_id"]

    def _touch(self, key: tuple[str, str], block: Json, element: Json, chosen: Any) -> None:
        fields = self.touched.setdefault(key, {}).setdefault(block["block_id"], {})
        fields[element["action_id"]] = {"type": element["type"], **inputs.choice(element, chosen)}

    def _values(self, blocks: list[Json], key: tuple[str, str]) -> Json:
        """state.values: what this person has chosen or typed in these blocks so far."""
        values: Json = {}
        touched = self.touched.get(key, {})
        for block, element in inputs.elements(blocks):
            if element["type"] in ("button", "overflow"):
                continue
            untouched = {"type": element["type"], **inputs.initial(element)}
            chosen = touched.get(block["block_id"], {}).get(element["action_id"], untouched)
            values.setdefault(block["block_id"], {})[element["action_id"]] = copy.deepcopy(chosen)
        return values
