"""Implements the Web API's methods for people and their groups."""

import time

from bot.workspace.api_parts import Methods, Parts, flag, page_of
from bot.workspace.errors import SlackError
from bot.workspace.people import Json


class People:
    """The methods users.* and usergroups.* of the Web API."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def methods(self) -> Methods:
        """Return the methods of this part by name."""
        return {
            "users.info": (self.user_info, ("user",)),
            "users.list": (self.user_list, ()),
            "users.lookupByEmail": (self.user_by_email, ("email",)),
            "usergroups.list": (self.group_list, ()),
            "usergroups.users.list": (self.group_users, ("usergroup",)),
        }

    def user_info(self, given: Json) -> Json:
        return {"user": self.parts.user(given["user"])}

    def user_list(self, given: Json) -> Json:
        members, cursor = page_of(list(self.parts.state.users.values()), given)
        return {"members": members, "cache_ts": int(time.time()), "response_metadata": cursor}

    def user_by_email(self, given: Json) -> Json:
        for user in self.parts.state.users.values():
            if user["profile"]["email"] == given["email"]:
                return {"user": user}
        raise SlackError("users_not_found")

    def group_list(self, given: Json) -> Json:
        self._refuse_on_a_free_plan()
        groups = [dict(group) for group in self.parts.state.groups.values()]
        if not flag(given.get("include_users")):
            for group in groups:
                del group["users"]
        return {"usergroups": groups}

    def group_users(self, given: Json) -> Json:
        self._refuse_on_a_free_plan()
        group = self.parts.state.groups.get(given["usergroup"])
        if group is None:
            raise SlackError("no_such_subteam")
        return {"users": group["users"]}

    def _refuse_on_a_free_plan(self) -> None:
        if not self.parts.faults.user_groups:
            raise SlackError("plan_upgrade_required")
