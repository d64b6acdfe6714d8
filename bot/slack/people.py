"""Identifies people and their roles. Guests, bots, strangers and other organisations may do nothing."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from itertools import islice
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.model.actor import Actor
from bot.model.plan import Refused
from bot.settings import InvalidSettings, Policy, Role, Settings

log = logging.getLogger(__name__)

SILENT = (OSError, HTTPException)
"""The exceptions that mean that Slack gave no answer, or broke one off."""
MEMORY = 60.0
"""Seconds that an answer of Slack's is reused where no decision depends on it."""
JUST_NOW = 10.0
"""Seconds that an answer is reused where a decision depends on it: Slack allows only twenty requests a minute for the
members of groups, and sends an event when they change."""
NO_GROUPS = {
    "plan_upgrade_required": "this Slack plan has no user groups",
    "no_such_subteam": "Slack has no such user group",
    "missing_scope": "the Slack app lacks the scope `usergroups:read`",
}
"""Why the members of a user group are unknown: then only the user ids in the settings count."""
MENTIONED = 10
"""Maximum number of people who are mentioned one by one; of more, the first ones are."""
UNFIT = ("deleted", "is_bot", "is_restricted", "is_ultra_restricted", "is_stranger")
"""Fields of a Slack profile that exclude a person from using the bot."""


class Untold(Exception):
    """Slack does not answer a question about a group, a person or a channel, or answers with an error."""


@dataclass
class _Answer:
    """The last answer to one question, received at `at` (monotonic); threads that ask meanwhile wait for `asking`."""

    at: float = -math.inf
    data: Any = None
    asking: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Group:
    """A user group; `why`: the reason why its members are unknown, or ""."""

    id: str
    name: str
    users: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Deciders:
    """The people who can decide on a request, other than the requester.

    Attributes:
        people: ids of full members, no more than were looked for; `everyone`: every full member, without their ids.
        mention: mrkdwn that mentions them; empty for everyone.
        missing: why a role has fewer people than its configuration names, as clauses.
    """

    people: tuple[str, ...]
    everyone: bool
    mention: str
    missing: tuple[str, ...]


class People:
    """Asks Slack about people; reuses answers for a minute, or for some seconds where a decision depends on them."""

    def __init__(self, client: WebClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self._kept: defaultdict[tuple[str, str], _Answer] = defaultdict(_Answer)
        self._lock = threading.Lock()
        self.ours: frozenset[str] = frozenset()
        self.scopes: frozenset[str] = frozenset()
        """The OAuth scopes that the app has in Slack, as far as Slack tells."""

    def connect(self) -> None:
        """Ask Slack for the bot's team, and its organisation on Enterprise Grid (auth.test). Raises InvalidSettings."""
        try:
            known = self.client.auth_test()
        except SlackApiError as error:
            raise InvalidSettings(f"Slack rejected SLACK_BOT_TOKEN: {error.response['error']}.") from error
        granted = getattr(known, "headers", {}).get("x-oauth-scopes", "")
        self.scopes = frozenset(filter(None, granted.split(",")))
        self.ours = frozenset(str(known[key]) for key in ("team_id", "enterprise_id") if known.get(key))

    def forget(self) -> None:
        """Drop cached answers, after a change of a user group."""
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
                if not method.startswith("usergroups.") or error.response.get("error") not in NO_GROUPS:
                    raise
                kept.data = {"users": [], "usergroups": [], "why": NO_GROUPS[error.response["error"]]}
            kept.at = time.monotonic()
            return kept.data

    def actor(self, user: str, team: str, channel: str, *, fresh: bool = False) -> Actor:
        """Return a person with their roles, or raise Refused if they may not use the bot; `fresh`: for a decision."""
        try:
            return self._actor(user, team, channel, fresh)
        except SlackApiError as error:
            raise Refused(
                f"I couldn't check your permissions (Slack: {error.response.get('error')}). Try again in a minute."
            ) from error
        except SILENT as error:
            raise Refused(
                "Slack does not answer, so I couldn't check your permissions. Try again in a minute."
            ) from error

    def _actor(self, user: str, team: str, channel: str, fresh: bool) -> Actor:
        if team not in self.ours:
            raise Refused("Only members of our own organisation can use me.")
        if not self._is_full_member(user, fresh):
            raise Refused(
                "Guests, bots and people from other organisations can't use me. Ask a full member of this workspace."
            )
        if channel and not channel.startswith("D"):
            try:
                info = self._ask("conversations.info", channel, fresh, channel=channel)["channel"]
            except SlackApiError as error:
                if error.response.get("error") != "channel_not_found":
                    raise
                info = {"is_member": False}
            if not info.get("is_member", True):
                # The person will now invite the bot, which cached answers would not show.
                self.forget()
                raise Refused("I am not in this channel. Add me first: `/invite @mautic`")
            if info.get("is_ext_shared"):
                raise Refused("This channel is shared with another organisation. Use an internal channel.")
        return Actor(user, self._roles(user, fresh))

    def _is_full_member(self, user: str, fresh: bool = False) -> bool:
        profile = self._ask("users.info", user, fresh, user=user)["user"]
        homes = {profile.get("team_id"), (profile.get("enterprise_user") or {}).get("enterprise_id")}
        return not any(profile.get(mark) for mark in UNFIT) and bool(homes & self.ours)

    def _roles(self, user: str, fresh: bool) -> frozenset[str]:
        found = set()
        for name, role in self.settings.roles.items():
            if role.everyone or user in role.users or any(user in self._group(g, fresh).users for g in role.groups):
                found.add(name)
        return frozenset(found)

    def roles_now(self, user: str) -> frozenset[str]:
        """Return the current roles of somebody who is not acting now; none for outsiders and deactivated people.

        Raises Refused if Slack does not answer.
        """
        try:
            return self._roles(user, True) if self._is_full_member(user, True) else frozenset()
        except (SlackApiError, *SILENT) as error:
            if isinstance(error, SlackApiError) and error.response.get("error") == "user_not_found":
                return frozenset()
            raise Refused(
                f"I couldn't check whether <@{user}>, who approved this request, still may. Try again in a minute."
            ) from error

    def mention(self, roles: Sequence[str]) -> str:
        """Return mrkdwn that mentions the people with these roles; a role that everyone has mentions nobody."""
        few = [name for name in roles if not self.settings.roles[name].everyone]
        try:
            return self.deciders(few, MENTIONED).mention
        except Untold as error:
            # Better to mention too many people than nobody.
            log.warning("Slack does not tell whom to call: %s", error)
            return " ".join(dict.fromkeys(f"<@{user}>" for name in few for user in self.settings.roles[name].users))

    def _group(self, name: str, fresh: bool = False) -> _Group:
        # The settings name a group by its id, or by its handle, which is in lower case.
        if name.isupper():
            told = self._ask("usergroups.users.list", name, fresh, usergroup=name)
            return _Group(name, name, tuple(told["users"]), told.get("why", ""))
        known = self._ask("usergroups.list", "", False)
        for one in known["usergroups"]:
            if one["handle"] == name:
                return replace(self._group(one["id"], fresh), name=f"@{name}")
        return _Group("", f"@{name}", (), known.get("why") or "Slack has no user group with this name")

    def channel_problem(self, channel: str) -> str:
        """Return why the bot can't or shouldn't post to a channel, and what helps; "" if it can.

        Raises Untold.
        """
        try:
            info = self._ask("conversations.info", channel, True, channel=channel)["channel"]
        except SlackApiError as error:
            if error.response.get("error") in ("channel_not_found", "not_in_channel"):
                return (
                    f"there is no channel `{channel}`, or it is private and I am not in it. Set the channel's id (at "
                    "the end of its details in Slack), and `/invite @mautic` there"
                )
            raise Untold(f"Slack gives no information about `{channel}` ({error.response.get('error')})") from error
        except SILENT as error:
            raise Untold("Slack does not answer") from error
        name = f"`#{info['name']}`" if info.get("name") else f"`{channel}`"
        if info.get("is_archived"):
            return f"{name} is archived. Unarchive the channel, or set another"
        if not info.get("is_member", True):
            return f"I am not in {name}. Add me: `/invite @mautic`"
        if info.get("is_ext_shared"):
            return f"{name} is shared with another organisation, who could read everything. Set an internal channel"
        return ""

    def operators(self) -> tuple[str, ...]:
        """Return the bot's operators, who may use `schedule`; nobody if Slack does not answer."""
        try:
            return self.deciders(self.settings.policy("schedule").ask, MENTIONED).people
        except Untold as error:
            log.warning("Slack does not tell who looks after the bot: %s", error)
            return ()

    def may_ask(self, users: Iterable[str], policy: Policy) -> bool:
        """Whether one of these people may request the command of a policy. Raises Untold."""
        try:
            return any(self._roles(user, False) & set(policy.ask) for user in users)
        except SlackApiError as error:
            raise Untold(str(error.response.get("error"))) from error
        except SILENT as error:
            raise Untold(str(error)) from error

    # -- who could decide ---------------------------------------------------------------------------------------

    def deciders(self, roles: Sequence[str], enough: int, *, but: str = "", mentioned: int = MENTIONED) -> Deciders:
        """Return the people with one of these roles, except `but`. Raises Untold.

        `enough`: how many are needed; no more need be found. `mentioned`: how many are mentioned one by one.
        """
        try:
            return self._deciders([self.settings.roles[name] for name in roles], enough, but, mentioned)
        except SlackApiError as error:
            raise Untold(str(error.response.get("error"))) from error
        except SILENT as error:
            raise Untold(str(error)) from error

    def _deciders(self, roles: Sequence[Role], enough: int, but: str, mentioned: int) -> Deciders:
        if any(role.everyone for role in roles):
            return Deciders((), True, "", ())
        groups = [self._group(name) for name in dict.fromkeys(name for role in roles for name in role.groups)]
        missing = [f"I can't read the user group `{group.name}`: {group.why}" for group in groups if group.why]
        missing += [
            f"the user group `{group.name}` has no members" for group in groups if not (group.users or group.why)
        ]
        # A group is mentioned as a whole, unless that would mention `but` too.
        whole = [group for group in groups if group.users and but not in group.users]
        in_whole = list(dict.fromkeys(user for group in whole for user in group.users))
        named = [*(user for role in roles for user in role.users), *(user for group in groups for user in group.users)]
        alone = [user for user in dict.fromkeys(named) if user != but and user not in in_whole]
        able = list(islice(self._able(alone, missing), max(mentioned, enough)))
        marks = [f"<!subteam^{group.id}>" for group in whole] + [f"<@{user}>" for user in able]
        able += islice(self._able(in_whole, missing), max(0, enough - len(able)))
        return Deciders(tuple(able), False, " ".join(marks) if able else "", tuple(missing))

    def _able(self, users: Iterable[str], missing: list[str]) -> Iterator[str]:
        for user in users:
            try:
                if self._is_full_member(user):
                    yield user
                else:
                    missing.append(f"<@{user}> is a guest, a bot, deactivated, or from another organisation")
            except SlackApiError as error:
                if error.response.get("error") != "user_not_found":
                    raise
                missing.append(f"Slack has no user `{user}`")

    def refuse_unless_decidable(
        self, command: str, requester: str, mentioned: int = MENTIONED, *, batch: bool = False
    ) -> str:
        """Raise Refused for a request that nobody could approve; return the mention of those who can, or "".

        If Slack does not answer, the request is accepted as it is.
        """
        policy = self.settings.policy(command, batch=batch)
        if not policy.approvals:
            return ""
        try:
            found = self.deciders(policy.approve, policy.approvals, but=requester, mentioned=mentioned)
        except Untold as error:
            log.warning("Slack does not tell who could approve `%s`: %s", command, error)
            return ""
        if not found.everyone and len(found.people) < policy.approvals:
            raise Refused(undecidable([command], found, policy.approvals, policy.approve, requester))
        return found.mention


def undecidable(
    commands: Sequence[str], found: Deciders, approvals: int, roles: Sequence[str], requester: str = ""
) -> str:
    """Say that not enough people can approve some commands, why, and what helps."""
    named = ", ".join(f"`{command}`" for command in commands)
    takes = f"need{'s' if len(commands) == 1 else ''} {approvals} approval{'s' if approvals > 1 else ''}"
    beside = f" other than <@{requester}>" if requester else ""
    who = f"nobody{beside} can approve"
    if found.people:
        some = " and ".join(f"<@{user}>" for user in found.people)
        apart = f"apart from <@{requester}> " if requester else ""
        who = f"{apart}only {some} can approve, and nobody approves their own request"
    why = f" ({'; '.join(found.missing[:3])})" if found.missing else ""
    places = " or ".join(f"`roles.{role}`" for role in roles)
    return (
        f"{named} {takes}, but {who}{why}. Add people to {places} in the bot's settings, or to the Slack user groups "
        "named there."
    )
