"""Turns the words that a person types into the text that a Slack client sends to an app."""

import re

from bot.workspace.state import State

# Bare names in these domains become links, as Slack does for names that look like web addresses.
_TLDS = "com|org|net|io|dev|app|de|fr|nl|uk|us|eu|ch|at|es|it|pl|ca|info|biz|email|cloud|online|shop|agency"
_TOKEN = re.compile(
    r"(?P<url>https?://[^\s<>|]+)"
    r"|(?<![\w@.-])@(?P<user>[a-z0-9][a-z0-9._-]*)"
    r"|(?<![\w#])\#(?P<channel>[a-z0-9][a-z0-9_-]*)"
    rf"|(?<![\w.@/-])(?P<host>(?:[a-z0-9-]+\.)+(?:{_TLDS}))(?![\w-]|\.\w)",
    re.IGNORECASE,
)


def escape(text: str) -> str:
    """Escape the three characters that Slack escapes."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_sent(state: State, text: str, labels: bool) -> str:
    """Return typed text with people, groups, channels and links as ids; `labels` adds names, as slash commands do."""
    people = {user["name"]: user["id"] for user in state.users.values()}
    groups = {group["handle"]: group["id"] for group in state.groups.values()}
    channels = {place["name"]: place["id"] for place in state.channels.values() if place["is_channel"]}

    def mark(found: re.Match[str]) -> str:
        name = found.group().rstrip(".-_") if found["user"] or found["channel"] else found.group()
        tail = found.group()[len(name) :]
        key = name[1:]
        if found["url"]:
            return f"<{name}>"
        if found["host"]:
            return f"<http://{name}|{name}>"
        if found["user"] and key in people:
            return f"<@{people[key]}|{key}>{tail}" if labels else f"<@{people[key]}>{tail}"
        if found["user"] and key in groups:
            return f"<!subteam^{groups[key]}|@{key}>{tail}" if labels else f"<!subteam^{groups[key]}>{tail}"
        if found["user"] and key in ("here", "channel", "everyone"):
            return f"<!{key}>{tail}"
        if found["channel"] and key in channels:
            return f"<#{channels[key]}|{key}>{tail}"
        return found.group()

    return _TOKEN.sub(mark, escape(text))
