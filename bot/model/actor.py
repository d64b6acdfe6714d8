"""Who runs a command: a person, with the roles that the configuration gives them, or the bot itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """A person who may use the bot: a full member of its own Slack team, with their roles from the configuration.

    The bot's own actor has the id "system" and no roles.
    """

    id: str
    roles: frozenset[str]
