"""Who is speaking, and in which roles. Guests, bots, strangers and other organisations have no say."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.approvals import Actor
from bot.plan import Refused
from bot.settings import InvalidSettings, Settings

MEMORY = 60.0
"""Seconds that an answer of Slack's is good for, where nobody decides on it."""
JUST_NOW = 10.0
"""Seconds that it is good for where somebody does: Slack tells a group's members twenty times a minute only, and tells
by itself when they change."""
NO_GROUPS = frozenset({"plan_upgrade_required", "no_such_subteam", "missing_scope"})
"""What a plan without user groups answers: then the configuration's user ids are all there is."""


@dataclass
class _Answer:
    """The last answer to one question, good from `at` on; who asks while it is on its way waits for it."""

    at: float = -math.inf
    data: Any = None
    asking: threading.Lock = field(default_factory=threading.Lock)


class People:
    """Asks Slack who somebody is; keeps answers for a minute, and for a decision for seconds."""

    def __init__(self, client: WebClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self._kept: defaultdict[tuple[str, str], _Answer] = defaultdict(_Answer)
        self._lock = threading.Lock()
        self.ours: frozenset[str] = frozenset()

    def connect(self) -> None:
        """Learn our own team, and our own organisation on Enterprise Grid (auth.test)."""
        try:
            known = self.client.auth_test()
        except SlackApiError as error:
            raise InvalidSettings(f"Slack does not take SLACK_BOT_TOKEN: {error.response['error']}.") from error
        self.ours = frozenset(str(known[key]) for key in ("team_id", "enterprise_id") if known.get(key))

    def forget(self) -> None:
        """Forget what was kept: a user group changed."""
        with self._lock:
            self._kept.clear()

    def _ask(self, method: str, subject: str, fresh: bool, **arguments: str) -> Any:
        with self._lock:
            kept = self._kept[method, subject]
        with kept.asking:
            if time.monotonic() - kept.at < (JUST_NOW if fresh else MEMORY):
                return kept.data
            try:
                kept.data = self.client.api_call(method, params=arguments).data
            except SlackApiError as error:
                if error.response.get("error") not in NO_GROUPS:
                    raise
                kept.data = {"users": [], "usergroups": []}
            kept.at = time.monotonic()
            return kept.data

    def actor(self, user: str, team: str, channel: str, *, fresh: bool = False) -> Actor:
        """Return who acts, with their roles, or raise Refused when they have no say here."""
        try:
            return self._actor(user, team, channel, fresh)
        except SlackApiError as error:
            raise Refused(
                f"Slack does not tell me who you are just now ({error.response.get('error')}); try again in a minute."
            ) from error
        except OSError as error:
            raise Refused("Slack does not answer me just now, so nothing was done; try again in a minute.") from error

    def _actor(self, user: str, team: str, channel: str, fresh: bool) -> Actor:
        if team not in self.ours:
            raise Refused("Only members of this workspace's own organisation can do this.")
        profile = self._ask("users.info", user, fresh, user=user)["user"]
        marks = ("deleted", "is_bot", "is_restricted", "is_ultra_restricted", "is_stranger")
        homes = {profile.get("team_id"), (profile.get("enterprise_user") or {}).get("enterprise_id")}
        if any(profile.get(mark) for mark in marks) or not homes & self.ours:
            raise Refused("Guests, bots and people of other organisations cannot do this; ask a full member.")
        if channel and not channel.startswith("D"):
            try:
                info = self._ask("conversations.info", channel, fresh, channel=channel)["channel"]
            except SlackApiError as error:
                if error.response.get("error") != "channel_not_found":
                    raise
                info = {"is_member": False}
            if not info.get("is_member", True):
                # An invitation follows, of which what is kept would know nothing.
                self.forget()
                raise Refused("I am not in this channel: `/invite` me, then try again.")
            if info.get("is_ext_shared"):
                raise Refused("This channel is shared with another organisation; use one of our own.")
        return Actor(user, self._roles(user, fresh))

    def _roles(self, user: str, fresh: bool) -> frozenset[str]:
        found = set()
        for name, role in self.settings.roles.items():
            if role.everyone or user in role.users or any(user in self._members(g, fresh) for g in role.groups):
                found.add(name)
        return frozenset(found)

    def mention(self, roles: Sequence[str]) -> str:
        """Return mrkdwn that rings for who has one of these roles: user groups, and people by id.

        A role that everyone has rings for nobody; "" where nobody is found.
        """
        named: dict[str, None] = {}
        for role in (self.settings.roles[name] for name in roles):
            if role.everyone:
                continue
            for group in role.groups:
                with suppress(SlackApiError):
                    if identity := self._group(group):
                        named[f"<!subteam^{identity}>"] = None
            named |= dict.fromkeys(f"<@{user}>" for user in role.users)
        return " ".join(named)

    def _group(self, group: str) -> str:
        """Return the id of a group by its id or handle; "" when there is none."""
        if group.startswith("S0"):
            return group
        groups = self._ask("usergroups.list", "", False)["usergroups"]
        return next((str(found["id"]) for found in groups if found["handle"] == group.removeprefix("@")), "")

    def _members(self, group: str, fresh: bool) -> list[str]:
        group = self._group(group)
        return list(self._ask("usergroups.users.list", group, fresh, usergroup=group)["users"]) if group else []
