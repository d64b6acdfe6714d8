"""Who is speaking, and in which roles. Guests, bots, strangers and other organisations have no say."""

from __future__ import annotations

import threading
import time
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.approvals import Actor
from bot.plan import Refused
from bot.settings import Settings

MEMORY = 60.0
"""Seconds that an answer of Slack's is good for, where nobody decides on it."""


class People:
    """Asks Slack who somebody is; keeps answers for a minute, and asks afresh for a decision."""

    def __init__(self, client: WebClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self._kept: dict[tuple[str, str], tuple[float, Any]] = {}
        self._lock = threading.Lock()
        self.team = ""

    def connect(self) -> None:
        """Learn our own team (auth.test)."""
        self.team = str(self.client.auth_test()["team_id"])

    def forget(self) -> None:
        """Forget what was kept: a user group changed."""
        with self._lock:
            self._kept.clear()

    def _ask(self, method: str, subject: str, fresh: bool, **arguments: str) -> Any:
        key = (method, subject)
        with self._lock:
            at, answer = self._kept.get(key, (0.0, None))
        if answer is not None and not fresh and time.monotonic() - at < MEMORY:
            return answer
        answer = self.client.api_call(method, params=arguments).data
        with self._lock:
            self._kept[key] = (time.monotonic(), answer)
        return answer

    def actor(self, user: str, team: str, channel: str, *, fresh: bool = False) -> Actor:
        """Return who acts, with their roles, or raise Refused when they have no say here."""
        if team != self.team:
            raise Refused("Only members of this workspace's own organisation can do this.")
        profile = self._ask("users.info", user, fresh, user=user)["user"]
        marks = ("deleted", "is_bot", "is_restricted", "is_ultra_restricted", "is_stranger")
        if any(profile.get(mark) for mark in marks) or profile.get("team_id", team) != self.team:
            raise Refused("Guests, bots and people of other organisations cannot do this; ask a full member.")
        if channel and not channel.startswith("D"):
            try:
                info = self._ask("conversations.info", channel, fresh, channel=channel)["channel"]
            except SlackApiError as error:
                if error.response.get("error") == "channel_not_found":
                    raise Refused("I am not in this channel: `/invite` me, then try again.") from error
                raise
            if info.get("is_ext_shared"):
                raise Refused("This channel is shared with another organisation; use one of our own.")
        return Actor(user, self._roles(user, fresh))

    def _roles(self, user: str, fresh: bool) -> frozenset[str]:
        found = set()
        for name, role in self.settings.roles.items():
            if role.everyone or user in role.users or any(user in self._members(g, fresh) for g in role.groups):
                found.add(name)
        return frozenset(found)

    def _members(self, group: str, fresh: bool) -> list[str]:
        try:
            if not group.startswith("S0"):
                groups = self._ask("usergroups.list", "", False)["usergroups"]
                group = next((found["id"] for found in groups if found["handle"] == group), "")
            if not group:
                return []
            return list(self._ask("usergroups.users.list", group, fresh, usergroup=group)["users"])
        except SlackApiError as error:
            # A free plan has no user groups: the configuration's user ids are all there is.
            if error.response.get("error") in ("plan_upgrade_required", "no_such_subteam", "missing_scope"):
                return []
            raise
