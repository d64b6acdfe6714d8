"""The Slack app's manifest, generated from the code: what the bot needs, and nothing more."""

from __future__ import annotations

from typing import Any

from bot.engine.registry import Registry

SCOPES = [
    "app_mentions:read",
    "channels:history",
    "channels:read",
    "chat:write",
    "commands",
    "files:write",
    "groups:history",
    "groups:read",
    "im:history",
    "im:write",
    "usergroups:read",
    "users:read",
]
EVENTS = ["app_home_opened", "app_mention", "message.channels", "message.groups", "subteam_members_changed"]


def manifest() -> dict[str, Any]:
    """Return the manifest to create the app from (api.slack.com/apps → From a manifest)."""
    return {
        "display_information": {
            "name": "Mautic",
            "description": "A Mautic of its own for every client, in a system container.",
            "background_color": "#4e5e9e",
        },
        "features": {
            # Without the Messages tab Slack does not let the bot send direct messages.
            "app_home": {
                "home_tab_enabled": True,
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": True,
            },
            "bot_user": {"display_name": "mautic", "always_online": True},
            "slash_commands": [
                {
                    "command": "/mautic",
                    "description": "Make and look after Mautic tenants",
                    "usage_hint": "new client-x | list | help",
                    "should_escape": True,
                }
            ],
        },
        "oauth_config": {"scopes": {"bot": SCOPES}},
        "settings": {
            "event_subscriptions": {"bot_events": EVENTS},
            "interactivity": {"is_enabled": True},
            "org_deploy_enabled": False,
            "socket_mode_enabled": True,
            "token_rotation_enabled": False,
        },
    }


def completions(registry: Registry) -> list[dict[str, str]]:
    """Return what a composer needs to complete `/mautic …`: name, usage and summary of each command."""
    return [
        {"name": command.name, "usage": command.usage, "summary": command.summary}
        for command in registry.commands.values()
    ]
