"""Helpers of the Web API's methods: look-ups of what a call names, arguments, and pages of lists."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bot.workspace import block_kit
from bot.workspace.delivery import Faults
from bot.workspace.errors import SlackError
from bot.workspace.events import Events
from bot.workspace.interactions import Interactions
from bot.workspace.people import BOT_USER, Json
from bot.workspace.state import State

Method = Callable[[Json], Json]
Methods = dict[str, tuple[Method, tuple[str, ...]]]
"""Methods by name, each with the names of its required arguments. A method takes the arguments and returns the fields
of its answer other than `ok`, or raises SlackError."""


@dataclass(frozen=True)
class Parts:
    """The workspace, as the app sees it."""

    state: State
    interactions: Interactions
    events: Events
    faults: Faults
    base_url: str

    def place(self, channel: Any, open_im: bool = False) -> Json:
        """Return a channel that the app is in by id or name; with `open_im` also its direct messages with a user id.

        Raises SlackError `not_in_channel` or `channel_not_found`.
        """
        wanted = str(channel).removeprefix("#")
        for place in self.state.channels.values():
            if wanted in (place["id"], place["name"]):
                if BOT_USER not in place["members"]:
                    raise SlackError("not_in_channel" if not place["is_private"] else "channel_not_found")
                return place
        if open_im and wanted in self.state.users:
            return self.state.direct_messages([wanted, BOT_USER])
        raise SlackError("channel_not_found")

    def open_place(self, channel: Any, open_im: bool = False) -> Json:
        """Return a channel that accepts new messages, as `place` does; raise SlackError `is_archived`."""
        place = self.place(channel, open_im)
        if place["is_archived"]:
            raise SlackError("is_archived")
        return place

    def user(self, user_id: Any) -> Json:
        """Return a user by id; raise SlackError `user_not_found`."""
        user = self.state.users.get(str(user_id))
        if user is None:
            raise SlackError("user_not_found")
        return user

    def thread(self, place: Json, thread_ts: Any) -> str | None:
        """Return the ts of a thread's root, None without `thread_ts`; raise SlackError where no thread is possible."""
        if not thread_ts:
            return None
        root = self.state.messages.get(place["id"], {}).get(str(thread_ts))
        if root is None:
            raise SlackError("thread_not_found")
        if "_to" in root:
            raise SlackError("cannot_reply_to_message")
        return str(root.get("thread_ts", root["ts"]))

    def content(self, given: Json) -> Json:
        """Return the checked content of a new message; raise SlackError, also for a picture that was not uploaded."""
        content = block_kit.message_content(given)
        uploaded = [file for file in self.state.files.values() if file["_uploaded"]]
        known = {file[key] for file in uploaded for key in ("id", "url_private", "permalink")}
        for number, block in enumerate(content["blocks"]):
            named = block.get("slack_file") or {}
            if named and (len(named) != 1 or known.isdisjoint(named.values())):
                wrong = f"invalid slack file [json-pointer:/blocks/{number}/slack_file]"
                raise SlackError("invalid_blocks", [f"[ERROR] {wrong}"], errors=[wrong])
        return content

    def own(self, place: Json, ts: Any, otherwise: str) -> Json:
        """Return a message of the app's own; raise SlackError, with the code `otherwise` for another author's."""
        message = self.state.find(place["id"], str(ts))
        if "_to" in message:
            raise SlackError("message_not_found")
        if message["user"] != BOT_USER:
            raise SlackError(otherwise)
        return message


def must(text: str, pointer: str) -> str:
    """Return the error line that says what an argument must be."""
    return f"[ERROR] must {text} [json-pointer:{pointer}]"


def flag(value: Any) -> bool:
    """Return whether an argument is true, in any of the forms that Slack accepts."""
    return value in (True, 1, "1", "true", "True")


def page_of(items: list[Any], given: Json) -> tuple[list[Any], Json]:
    """Return one page by `limit` (default 100) and `cursor`, and the response_metadata with the next cursor."""
    try:
        limit = int(given.get("limit") or 100)
        start = int(str(given.get("cursor") or "c0").removeprefix("c"))
    except ValueError:
        raise SlackError("invalid_cursor") from None
    if not 1 <= limit <= 1000:
        raise SlackError("invalid_limit")
    end = start + limit
    return items[start:end], {"next_cursor": f"c{end}" if end < len(items) else ""}
