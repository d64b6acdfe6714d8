"""The people, groups and channels that every local workspace starts with."""

from typing import Any

Json = dict[str, Any]

TEAM = "T0LOCAL"
OTHER_TEAM = "T0OTHER"
TEAM_NAME = "Local workspace"
TEAM_DOMAIN = "local"
APP_ID = "A0MAUTIC"
BOT_ID = "B0BOT"
BOT_USER = "U0BOT"


def _person(user_id: str, name: str, real_name: str, title: str, **more: Any) -> Json:
    return {
        "id": user_id,
        "team_id": TEAM,
        "name": name,
        "real_name": real_name,
        "deleted": False,
        "is_bot": False,
        "is_app_user": False,
        "is_admin": False,
        "is_owner": False,
        "is_restricted": False,
        "is_ultra_restricted": False,
        "is_stranger": False,
        "tz": "Etc/UTC",
        "tz_offset": 0,
        "profile": {
            "real_name": real_name,
            "display_name": name,
            "title": title,
            "email": f"{name}@local.test",
            "team": more.get("team_id", TEAM),
        },
        **more,
    }


USERS: dict[str, Json] = {
    user["id"]: user
    for user in (
        _person("U0OPSLEAD", "ops-lead", "Olivia Lead", "Operations lead, approves", is_admin=True),
        _person("U0OPSLEAD2", "ops-lead-2", "Omar Lead", "Operations lead, approves"),
        _person("U0OPERATOR", "operator", "Petra Operator", "Operator"),
        _person("U0ACCOUNT", "account-manager", "Anna Account", "Account manager"),
        _person("U0GUEST", "guest", "Gus Guest", "Guest", is_restricted=True),
        _person("U0OUTSIDER", "outsider", "Otto Outsider", "Works at the partner", team_id=OTHER_TEAM),
        _person(BOT_USER, "mautic", "mautic", "App", is_bot=True),
    )
}
USERS[BOT_USER]["profile"] |= {"bot_id": BOT_ID, "api_app_id": APP_ID, "email": None}


def colleagues(number: int) -> dict[str, Json]:
    """Return `number` further people of this workspace, from `colleague-1` on, who are in no group."""
    made = (_person(f"U0COLLEAGUE{n}", f"colleague-{n}", f"Colleague {n}", "Colleague") for n in range(1, number + 1))
    return {user["id"]: user for user in made}


def _group(group_id: str, handle: str, name: str, users: list[str]) -> Json:
    return {
        "id": group_id,
        "team_id": TEAM,
        "is_usergroup": True,
        "name": name,
        "handle": handle,
        "description": "",
        "is_external": False,
        "date_create": 1700000000,
        "date_update": 1700000000,
        "date_delete": 0,
        "users": users,
        "user_count": len(users),
    }


GROUPS: dict[str, Json] = {
    group["id"]: group
    for group in (
        _group("S0APPROVERS", "mautic-approvers", "Mautic approvers", ["U0OPSLEAD", "U0OPSLEAD2"]),
        _group("S0OPERATORS", "mautic-operators", "Mautic operators", ["U0OPERATOR", "U0OPSLEAD", "U0OPSLEAD2"]),
    )
}


def channel(channel_id: str, name: str, members: list[str], **more: Any) -> Json:
    """Return a conversation in the form of conversations.info, plus its `members`."""
    return {
        "id": channel_id,
        "name": name,
        "is_channel": True,
        "is_group": False,
        "is_im": False,
        "is_mpim": False,
        "is_private": False,
        "is_archived": False,
        "is_general": channel_id == "C0GENERAL",
        "is_shared": False,
        "is_ext_shared": False,
        "is_org_shared": False,
        "is_member": BOT_USER in members,
        "context_team_id": TEAM,
        "created": 1700000000,
        "creator": "U0OPSLEAD",
        "topic": {"value": "", "creator": "", "last_set": 0},
        "purpose": {"value": "", "creator": "", "last_set": 0},
        "members": members,
        **more,
    }


_LOCALS = [user_id for user_id, user in USERS.items() if user["team_id"] == TEAM]
CHANNELS: dict[str, Json] = {
    "C0OPS": channel("C0OPS", "mautic-ops", _LOCALS),
    "C0GENERAL": channel("C0GENERAL", "general", _LOCALS),
    "C0SHARED": channel(
        "C0SHARED",
        "shared-with-partner",
        [*(user for user in _LOCALS if user != "U0GUEST"), "U0OUTSIDER"],
        is_shared=True,
        is_ext_shared=True,
        connected_team_ids=[OTHER_TEAM],
    ),
}
