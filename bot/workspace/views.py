"""Manages modals and Home tabs: triggers, the stack, replacement, and what people have chosen in them so far."""

import copy
import itertools
import secrets
import time
from dataclasses import dataclass
from typing import Any

from bot.workspace import block_kit, inputs
from bot.workspace.errors import BadRequest, SlackError
from bot.workspace.people import APP_ID, BOT_ID, TEAM, Json
from bot.workspace.state import State

TRIGGER_SECONDS = 3.0
STACK_LIMIT = 3


@dataclass
class Trigger:
    """A person's action, in answer to which the app may open a modal once. `made`: by the monotonic clock."""

    user: str
    made: float
    from_view: str | None
    used: bool = False


class Views:
    """The views of all people, as the app opens, changes and publishes them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.triggers: dict[str, Trigger] = {}
        self.touched: dict[tuple[str, str], Json] = {}  # (message or view, user) -> state.values

    def use_trigger(self, trigger_id: str) -> Trigger:
        """Use up a trigger; raise SlackError if it is unknown, used, or older than 3 s."""
        trigger = self.triggers.get(trigger_id)
        if trigger is None:
            raise SlackError("invalid_trigger_id")
        if trigger.used:
            raise SlackError("exchanged_trigger_id")
        if time.monotonic() - trigger.made > TRIGGER_SECONDS:
            raise SlackError("expired_trigger_id")
        trigger.used = True
        return trigger

    def new_trigger(self, user_id: str, from_view: str | None = None) -> str:
        """Return the id of a new trigger for a person, and forget those older than 600 s."""
        now = time.monotonic()
        # The dict keeps triggers in the order of their creation.
        for old in list(itertools.takewhile(lambda key: now - self.triggers[key].made > 600, self.triggers)):
            del self.triggers[old]
        trigger_id = f"{int(time.time())}.{secrets.randbelow(10**9)}.{secrets.token_hex(16)}"
        self.triggers[trigger_id] = Trigger(user_id, now, from_view)
        return trigger_id

    def open_view(self, user_id: str, wanted: Json) -> Json:
        """Replace a person's stack by this one modal, and return it."""
        view = self._new_view(user_id, wanted)
        self.state.set_stack(user_id, [])
        self.state.save_view(view)
        self.state.set_stack(user_id, [view["id"]])
        return view

    def push_view(self, user_id: str, wanted: Json) -> Json:
        """Put a modal on top of the stack, and return it; raise SlackError `push_limit_reached` at three."""
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
        """Replace a modal's content, and return the view; raise SlackError `hash_conflict` for an unexpected hash."""
        if expected_hash and expected_hash != view["hash"]:
            raise SlackError("hash_conflict")
        fresh = self._new_view(view["_user"], wanted)
        fresh |= {key: view[key] for key in ("id", "root_view_id", "previous_view_id")}
        fresh["state"] = {"values": self.values(fresh["blocks"], (view["id"], view["_user"]))}
        self.state.save_view(fresh)
        return fresh

    def publish_home(self, user_id: str, wanted: Json, expected_hash: str | None) -> Json:
        """Replace a person's Home tab, and return it; raise SlackError `hash_conflict` for an unexpected hash."""
        old = self.state.views.get(self.state.homes.get(user_id, ""))
        if old and expected_hash and expected_hash != old["hash"]:
            raise SlackError("hash_conflict")
        view = self._new_view(user_id, wanted)
        if old:
            view |= {"id": old["id"], "root_view_id": old["id"]}
        self.state.set_home(user_id, view)
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
        view["state"] = {"values": self.values(view["blocks"], (view_id, user_id))}
        return view

    def touch(self, key: tuple[str, str], block: Json, element: Json, chosen: Any) -> None:
        """Remember a person's choice in an element; `key`: (message or view, user id)."""
        fields = self.touched.setdefault(key, {}).setdefault(block["block_id"], {})
        fields[element["action_id"]] = {"type": element["type"], **inputs.choice(element, chosen)}

    def values(self, blocks: list[Json], key: tuple[str, str]) -> Json:
        """Return `state.values`: what this person has chosen or typed in these blocks so far; `key` as in `touch`."""
        values: Json = {}
        touched = self.touched.get(key, {})
        for block, element in inputs.elements(blocks):
            if element["type"] in ("button", "overflow"):
                continue
            untouched = {"type": element["type"], **inputs.initial(element)}
            chosen = touched.get(block["block_id"], {}).get(element["action_id"], untouched)
            values.setdefault(block["block_id"], {})[element["action_id"]] = copy.deepcopy(chosen)
        return values

    def open_to(self, user: Json, view_id: str) -> Json:
        """Return a view that a person has open; raise BadRequest for any other."""
        view = self.state.views.get(view_id)
        open_to_user = [*self.state.stacks.get(user["id"], []), self.state.homes.get(user["id"])]
        if view is None or view_id not in open_to_user:
            raise BadRequest(f"{user['name']} has no view {view_id!r} open.")
        return view

    def action(self, blocks: list[Json], action_id: str, chosen: Any, key: tuple[str, str]) -> tuple[Json, str]:
        """Return the action of a choice in these blocks, and its block's id; `key` as in `touch`."""
        block, element = inputs.find(blocks, action_id)
        if element["type"] == "button" and chosen not in (None, element.get("value")):
            raise BadRequest(f"The button {action_id!r} has another value.")
        action = {"type": element["type"], "action_id": action_id, "action_ts": self.state.next_ts()}
        action |= {name: element[name] for name in ("text", "value", "style", "url") if name in element}
        if element["type"] != "button":
            self.touch(key, block, element, chosen)
            action |= inputs.choice(element, chosen)
        return action, block["block_id"]
