"""Reads the app's settings from its manifest, as Slack does."""

import json
from dataclasses import dataclass
from pathlib import Path

from bot.workspace.people import Json


@dataclass(frozen=True)
class Manifest:
    """The app's settings. `commands`: by name; `events`, `scopes`: subscribed and granted ones, None: all.

    `messages_tab`: the app has a Messages tab, so that people can exchange direct messages with it.
    """

    commands: dict[str, Json]
    events: frozenset[str] | None
    scopes: frozenset[str] | None
    messages_tab: bool


DEFAULT = Manifest(
    {"/mautic": {"command": "/mautic", "description": "", "usage_hint": "", "should_escape": True}}, None, None, True
)


def read(path: Path) -> Manifest:
    """Read a manifest from a JSON file. Raises OSError, ValueError or KeyError."""
    body = json.loads(path.read_text())
    return Manifest(
        {command["command"]: command for command in body["features"].get("slash_commands", [])},
        frozenset(body.get("settings", {}).get("event_subscriptions", {}).get("bot_events", [])),
        frozenset(body.get("oauth_config", {}).get("scopes", {}).get("bot", [])),
        bool(body["features"].get("app_home", {}).get("messages_tab_enabled")),
    )
