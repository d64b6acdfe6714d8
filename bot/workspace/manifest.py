"""The app's settings, as Slack would have them from its manifest."""

import json
from dataclasses import dataclass
from pathlib import Path

from bot.workspace.people import Json


@dataclass(frozen=True)
class Manifest:
    """`commands` by name; `events` subscribed to and `scopes` granted, None for all; `messages_tab`: there is one."""

    commands: dict[str, Json]
    events: frozenset[str] | None
    scopes: frozenset[str] | None
    messages_tab: bool


DEFAULT = Manifest(
    {"/mautic": {"command": "/mautic", "description": "", "usage_hint": "", "should_escape": True}}, None, None, True
)


def read(path: Path) -> Manifest:
    """The manifest of that file (JSON). Raises OSError, ValueError or KeyError."""
    body = json.loads(path.read_text())
    return Manifest(
        {command["command"]: command for command in body["features"].get("slash_commands", [])},
        frozenset(body.get("settings", {}).get("event_subscriptions", {}).get("bot_events", [])),
        frozenset(body.get("oauth_config", {}).get("scopes", {}).get("bot", [])),
        bool(body["features"].get("app_home", {}).get("messages_tab_enabled")),
    )
