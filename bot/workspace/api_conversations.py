"""Implements the Web API's methods for channels, direct messages and their history."""

from collections.abc import Callable

from bot.workspace.api_parts import Methods, Parts, flag, page_of
from bot.workspace.errors import SlackError
from bot.workspace.people import BOT_USER, Json
from bot.workspace.state import public


class Conversations:
    """The methods conversations.* of the Web API."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def methods(self) -> Methods:
        """Return the methods of this part by name."""
        return {
            "conversations.info": (self.conversation_info, ("channel",)),
            "conversations.list": (self.conversation_list, ()),
            "conversations.members": (self.conversation_members, ("channel",)),
            "conversations.history": (self.history, ("channel",)),
            "conversations.replies": (self.replies, ("channel", "ts")),
            "conversations.open": (self.open_conversation, ()),
        }

    def conversation_info(self, given: Json) -> Json:
        # Unlike other methods it takes no channel name, and it describes public channels that the app is not in.
        place = self.parts.state.channels.get(given["channel"])
        if place is None or (place["is_private"] and BOT_USER not in place["members"]):
            raise SlackError("channel_not_found")
        channel = _without_members(place)
        if flag(given.get("include_num_members")):
            channel["num_members"] = len(place["members"])
        return {"channel": channel}

    def conversation_list(self, given: Json) -> Json:
        kinds = str(given.get("types") or "public_channel").split(",")
        places = [
            _without_members(place)
            for place in self.parts.state.channels.values()
            if BOT_USER in place["members"] and _kind(place) in kinds
        ]
        page, cursor = page_of(places, given)
        return {"channels": page, "response_metadata": cursor}

    def conversation_members(self, given: Json) -> Json:
        members, cursor = page_of(self.parts.place(given["channel"])["members"], given)
        return {"members": members, "response_metadata": cursor}

    def history(self, given: Json) -> Json:
        place = self.parts.place(given["channel"])
        within = _window(given)
        messages = [m for m in self.parts.state.roots(place["id"]) if within(m["ts"])]
        page, cursor = page_of([public(m) for m in reversed(messages)], given)
        return {
            "messages": page,
            "has_more": bool(cursor["next_cursor"]),
            "pin_count": 0,
            "response_metadata": cursor,
        }

    def replies(self, given: Json) -> Json:
        place = self.parts.place(given["channel"])
        named = self.parts.state.messages.get(place["id"], {}).get(str(given["ts"]))
        if named is None or "_to" in named:
            raise SlackError("thread_not_found")
        root_ts = str(named.get("thread_ts", named["ts"]))
        messages = self.parts.state.thread(place["id"], root_ts)
        within = _window(given)
        messages = [m for m in messages if m["ts"] == root_ts or within(m["ts"])]
        page, cursor = page_of([public(m) for m in messages], given)
        return {"messages": page, "has_more": bool(cursor["next_cursor"]), "response_metadata": cursor}

    def open_conversation(self, given: Json) -> Json:
        if given.get("channel"):
            return {"channel": {"id": self.parts.place(given["channel"])["id"]}}
        if not given.get("users"):
            raise SlackError("users_list_not_supplied")
        users = given["users"] if isinstance(given["users"], list) else str(given["users"]).split(",")
        known = [self.parts.user(user.strip())["id"] for user in users]
        return {"channel": {"id": self.parts.state.direct_messages([*known, BOT_USER])["id"]}}


def _kind(place: Json) -> str:
    if place["is_im"]:
        return "im"
    if place["is_mpim"]:
        return "mpim"
    return "private_channel" if place["is_private"] else "public_channel"


def _without_members(place: Json) -> Json:
    return {key: value for key, value in place.items() if key != "members"}


def _window(given: Json) -> Callable[[str], bool]:
    """Return a predicate for a ts: whether it is within `oldest` and `latest`."""
    bounds = {"oldest": 0.0, "latest": 1e12}
    for name in bounds:
        try:
            bounds[name] = float(given.get(name) or bounds[name])
        except ValueError:
            raise SlackError(f"invalid_ts_{name}") from None
    oldest, latest = bounds["oldest"], bounds["latest"]
    if flag(given.get("inclusive")):
        return lambda ts: oldest <= float(ts) <= latest
    return lambda ts: oldest < float(ts) < latest
