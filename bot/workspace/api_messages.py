"""Implements the Web API's methods that post, change, delete and react to messages."""

import re

from bot.workspace import block_kit
from bot.workspace.api_parts import Methods, Parts, flag
from bot.workspace.errors import SlackError
from bot.workspace.people import BOT_USER, Json
from bot.workspace.state import public


class Messages:
    """The methods chat.* and reactions.* of the Web API."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def methods(self) -> Methods:
        """Return the methods of this part by name."""
        return {
            "chat.postMessage": (self.post_message, ("channel",)),
            "chat.update": (self.update_message, ("channel", "ts")),
            "chat.delete": (self.delete_message, ("channel", "ts")),
            "chat.postEphemeral": (self.post_ephemeral, ("channel", "user")),
            "chat.getPermalink": (self.permalink, ("channel", "message_ts")),
            "reactions.add": (self.add_reaction, ("channel", "timestamp", "name")),
            "reactions.remove": (self.remove_reaction, ("name",)),
        }

    def post_message(self, given: Json) -> Json:
        place = self.parts.open_place(given["channel"], open_im=True)
        if place["is_im"] and not self.parts.interactions.manifest.messages_tab:
            raise SlackError("messages_tab_disabled")
        content = self.parts.content(given)
        thread_ts = self.parts.thread(place, given.get("thread_ts"))
        if thread_ts and flag(given.get("reply_broadcast")):
            content["subtype"] = "thread_broadcast"
        message = self.parts.state.add_message(
            place["id"], BOT_USER, thread_ts=thread_ts, metadata=given.get("metadata"), **content
        )
        self.parts.events.posted(message)
        return {"channel": place["id"], "ts": message["ts"], "message": public(message)}

    def post_ephemeral(self, given: Json) -> Json:
        place = self.parts.open_place(given["channel"])
        if given["user"] not in place["members"]:
            raise SlackError("user_not_in_channel")
        content = self.parts.content(given)
        thread_ts = self.parts.thread(place, given.get("thread_ts"))
        message = self.parts.state.add_message(place["id"], BOT_USER, to=given["user"], thread_ts=thread_ts, **content)
        return {"message_ts": message["ts"]}

    def update_message(self, given: Json) -> Json:
        place = self.parts.place(given["channel"])
        message = self.parts.own(place, given["ts"], "cant_update_message")
        before = dict(message)
        blocks = given.get("blocks")
        if blocks is None and given.get("attachments") is None and not given.get("text"):
            raise SlackError("no_text")
        # An empty array removes the blocks, and so does text without blocks.
        content = self.parts.content({"text": message["text"], **_present(given)})
        if len(content["text"]) > block_kit.UPDATE_TEXT:
            raise SlackError("msg_too_long")
        for name in ("blocks", "attachments"):
            if given.get(name) is not None or (name == "blocks" and given.get("text")):
                message.pop(name, None)
        message |= {name: value for name, value in content.items() if value or name == "text"}
        # Without this argument the metadata stays; an empty object removes it.
        if given.get("metadata") is not None:
            message["metadata"] = given["metadata"] or None
        if blocks is None:
            message["edited"] = {"user": BOT_USER, "ts": self.parts.state.next_ts()}
        self.parts.state.change_message(message)
        self.parts.events.changed(message, before)
        return {
            "channel": place["id"],
            "ts": message["ts"],
            "text": message["text"],
            "message": public(message),
        }

    def delete_message(self, given: Json) -> Json:
        place = self.parts.place(given["channel"])
        message = self.parts.own(place, given["ts"], "cant_delete_message")
        self.parts.state.remove_message(message)
        self.parts.events.deleted(message)
        return {"channel": place["id"], "ts": message["ts"]}

    def permalink(self, given: Json) -> Json:
        place = self.parts.place(given["channel"])
        message = self.parts.state.find(place["id"], str(given["message_ts"]))
        link = f"{self.parts.base_url}/archives/{place['id']}/p{message['ts'].replace('.', '')}"
        if message.get("thread_ts", message["ts"]) != message["ts"]:
            link += f"?thread_ts={message['thread_ts']}&cid={place['id']}"
        return {"channel": place["id"], "permalink": link}

    def add_reaction(self, given: Json) -> Json:
        message, name = self._reacted(given)
        reactions = message.setdefault("reactions", [])
        reaction = next((one for one in reactions if one["name"] == name), None)
        if reaction is None:
            reaction = {"name": name, "users": [], "count": 0}
            reactions.append(reaction)
        if BOT_USER in reaction["users"]:
            raise SlackError("already_reacted")
        reaction["users"].append(BOT_USER)
        reaction["count"] += 1
        self.parts.state.change_message(message)
        return {}

    def remove_reaction(self, given: Json) -> Json:
        message, name = self._reacted(given)
        for reaction in message.get("reactions", []):
            if reaction["name"] == name and BOT_USER in reaction["users"]:
                reaction["users"].remove(BOT_USER)
                reaction["count"] -= 1
                message["reactions"] = [one for one in message["reactions"] if one["count"]]
                self.parts.state.change_message(message)
                return {}
        raise SlackError("no_reaction")

    def _reacted(self, given: Json) -> tuple[Json, str]:
        place = self.parts.place(given.get("channel", ""))
        name = str(given["name"]).strip(":")
        if not re.fullmatch(r"[a-z0-9_+'-]+(::skin-tone-[2-6])?", name):
            raise SlackError("invalid_name")
        return self.parts.state.find(place["id"], str(given.get("timestamp", ""))), name


def _present(given: Json) -> Json:
    return {name: given[name] for name in ("text", "blocks", "attachments") if given.get(name) is not None}
