"""Holds the workspace's state in memory, and writes it through to one SQLite file.

Messages, views and the rest are plain dicts in Slack's own shape. Keys that start with "_" are internal and never leave
the server.
"""

import asyncio
import json
import re
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any

from bot.workspace.errors import BadRequest, SlackError
from bot.workspace.people import APP_ID, BOT_ID, BOT_USER, CHANNELS, GROUPS, TEAM, USERS, Json, channel, colleagues


class Store:
    """JSON documents by kind and key in SQLite. They survive a kill of the process, but not a crash of the machine."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=OFF")
        self.db.execute("CREATE TABLE IF NOT EXISTS docs (kind TEXT, key TEXT, body TEXT, PRIMARY KEY (kind, key))")

    def load(self, kind: str) -> dict[str, Any]:
        rows = self.db.execute("SELECT key, body FROM docs WHERE kind = ? ORDER BY key", (kind,))
        return {key: json.loads(body) for key, body in rows}

    def put(self, kind: str, key: str, body: Any) -> None:
        self.db.execute("INSERT OR REPLACE INTO docs VALUES (?, ?, ?)", (kind, key, json.dumps(body)))

    def delete(self, kind: str, key: str) -> None:
        self.db.execute("DELETE FROM docs WHERE kind = ? AND key = ?", (kind, key))


class State:
    """The workspace's state. Not thread-safe: the server's event loop owns it. `more`: how many extra colleagues."""

    def __init__(self, directory: Path, more: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.files_dir = directory / "files"
        self.files_dir.mkdir(exist_ok=True)
        self.store = Store(directory / "workspace.sqlite")
        beside = colleagues(more)
        self.users = USERS | beside
        self.groups: dict[str, Json] = GROUPS | self.store.load("group")
        self.channels: dict[str, Json] = CHANNELS | self.store.load("channel")
        ops = self.channels["C0OPS"]
        self.channels["C0OPS"] = ops | {"members": [*dict.fromkeys([*ops["members"], *beside])]}
        self.messages: dict[str, dict[str, Json]] = {}
        for message in self.store.load("message").values():
            self.messages.setdefault(message["_channel"], {})[message["ts"]] = message
        self.views: dict[str, Json] = self.store.load("view")
        self.stacks: dict[str, list[str]] = self.store.load("stack")
        self.homes: dict[str, str] = self.store.load("home")
        self.files: dict[str, Json] = self.store.load("file")
        self.response_urls: dict[str, Json] = self.store.load("response_url")
        self.watchers: dict[asyncio.Queue[Json], str] = {}
        self._last_ts = max((float(m["ts"]) for c in self.messages.values() for m in c.values()), default=0.0)

    # Watching

    def notify(self, kind: str, only: str | None = None, **facts: Any) -> None:
        """Tell the watching pages that something changed; `only`: the id of the only person who may see it."""
        for queue, watcher in self.watchers.items():
            if only and watcher and watcher != only:
                continue
            where = self.channels.get(facts.get("channel", ""))
            if where and watcher and watcher not in where["members"]:
                continue
            queue.put_nowait({"type": kind, **facts})

    # People and places

    def user(self, name_or_id: str) -> Json:
        """Return the person with this id or name, with or without "@"; raise BadRequest if there is none."""
        wanted = name_or_id.removeprefix("@")
        for user in self.users.values():
            if wanted in (user["id"], user["name"]):
                return user
        raise BadRequest(f"There is nobody called {name_or_id!r} in this workspace.")

    def channel(self, name_or_id: str, viewer: str | None = None) -> Json:
        """Return the channel with this id or name; raise BadRequest if there is none.

        "ops" is "mautic-ops", and a person's name stands for the direct messages of `viewer` with that person.
        """
        wanted = name_or_id.removeprefix("#")
        for place in self.channels.values():
            if wanted in (place["id"], place["name"]) or (wanted == "ops" and place["id"] == "C0OPS"):
                return place
        if viewer:
            return self.direct_messages([viewer, self.user(wanted)["id"]])
        raise BadRequest(f"There is no channel called {name_or_id!r} in this workspace.")

    def direct_messages(self, users: list[str]) -> Json:
        """Return the conversation of exactly these people, and create it when it is missing."""
        members = sorted(set(users))
        for place in self.channels.values():
            if (place["is_im"] or place["is_mpim"]) and sorted(place["members"]) == members:
                return place
        is_im = len(members) <= 2
        made = channel(
            ("D" if is_im else "G") + secrets.token_hex(5).upper(),
            "",
            members,
            is_channel=False,
            is_im=is_im,
            is_mpim=not is_im,
            is_private=True,
            user=next((user for user in members if user != BOT_USER), BOT_USER),
        )
        made["name"] = made["id"]
        self.channels[made["id"]] = made
        self.store.put("channel", made["id"], made)
        return made

    def set_group(self, handle_or_id: str, users: list[str]) -> tuple[Json, Json]:
        """Set the members of a group; return the group before and after. Raises BadRequest if there is none."""
        wanted = handle_or_id.removeprefix("@")
        for group in self.groups.values():
            if wanted in (group["id"], group["handle"]):
                members = [self.user(user)["id"] for user in users]
                changed = group | {"users": members, "user_count": len(members), "date_update": int(time.time())}
                self.groups[group["id"]] = changed
                self.store.put("group", group["id"], changed)
                return group, changed
        raise BadRequest(f"There is no group called {handle_or_id!r} in this workspace.")

    def set_channel(self, name_or_id: str, *, archived: bool, has_bot: bool) -> Json:
        """Archive or unarchive a channel, and add the bot to it or remove the bot."""
        place = self.channel(name_or_id)
        members = [user for user in place["members"] if user != BOT_USER] + [BOT_USER] * has_bot
        changed = place | {"is_archived": archived, "is_member": has_bot, "members": members}
        self.channels[place["id"]] = changed
        self.store.put("channel", place["id"], changed)
        return changed

    def mentioned(self, message: Json) -> list[str]:
        """Return the ids of people whom a message mentions, directly or by a group."""
        said = json.dumps([message.get("text"), message.get("blocks")])
        found = re.findall(r"<@([UW][A-Z0-9]+)", said)
        for group in re.findall(r"<!subteam\^(S[A-Z0-9]+)", said):
            found += self.groups.get(group, {"users": []})["users"]
        return sorted(set(found))

    # Messages

    def next_ts(self) -> str:
        self._last_ts = max(time.time(), self._last_ts + 0.000002)
        return f"{self._last_ts:.6f}"

    def find(self, channel_id: str, ts: str) -> Json:
        """Return a message; raise SlackError `message_not_found` if there is none."""
        message = self.messages.get(channel_id, {}).get(ts)
        if message is None:
            raise SlackError("message_not_found")
        return message

    def add_message(self, channel_id: str, author: str, to: str | None = None, **content: Any) -> Json:
        """Post a message as `author`; `to` makes it ephemeral. A reply (`thread_ts`) updates its root's counts."""
        user = self.users[author]
        message: Json = {"type": "message", "user": author, "ts": self.next_ts(), "team": user["team_id"]}
        message |= {key: value for key, value in content.items() if value not in (None, [])}
        message["_channel"] = channel_id
        if user["is_bot"]:
            message |= {
                "bot_id": BOT_ID,
                "app_id": APP_ID,
                "bot_profile": {"id": BOT_ID, "app_id": APP_ID, "name": "mautic", "team_id": TEAM},
            }
        if to:
            message |= {"is_ephemeral": True, "_to": to}
        self.messages.setdefault(channel_id, {})[message["ts"]] = message
        self.save(message)
        self.notify(
            "ephemeral" if to else "message",
            only=to,
            channel=channel_id,
            ts=message["ts"],
            thread_ts=message.get("thread_ts"),
            mentions=self.mentioned(message),
        )
        self._count_replies(message)
        return message

    def change_message(self, message: Json) -> None:
        self.save(message)
        self._tell("message_changed", message)

    def remove_message(self, message: Json) -> None:
        del self.messages[message["_channel"]][message["ts"]]
        self.store.delete("message", f"{message['_channel']}/{message['ts']}")
        self._tell("message_deleted", message)
        self._count_replies(message)

    def save(self, message: Json) -> None:
        self.store.put("message", f"{message['_channel']}/{message['ts']}", message)

    def thread(self, channel_id: str, root_ts: str, viewer: str | None = None) -> list[Json]:
        """Return a thread's root and its replies, oldest first, as `viewer` sees them."""
        messages = self.messages.get(channel_id, {}).values()
        return [m for m in messages if root_ts in (m["ts"], m.get("thread_ts")) and m.get("_to", viewer) == viewer]

    def roots(self, channel_id: str, viewer: str | None = None) -> list[Json]:
        """Return the messages that a channel shows outside threads, oldest first, as `viewer` sees them."""
        return [
            m
            for m in self.messages.get(channel_id, {}).values()
            if m.get("_to", viewer) == viewer
            and (m.get("thread_ts", m["ts"]) == m["ts"] or m.get("subtype") == "thread_broadcast")
        ]

    def _tell(self, kind: str, message: Json) -> None:
        self.notify(
            kind,
            only=message.get("_to"),
            channel=message["_channel"],
            ts=message["ts"],
            thread_ts=message.get("thread_ts"),
        )

    def _count_replies(self, message: Json) -> None:
        root_ts = message.get("thread_ts")
        root = self.messages[message["_channel"]].get(root_ts or "")
        if root is None or root_ts == message["ts"] or "_to" in message:
            return
        replies = [m for m in self.thread(message["_channel"], root["ts"]) if m["ts"] != root["ts"]]
        for key in ("thread_ts", "reply_count", "reply_users", "latest_reply"):
            root.pop(key, None)
        if replies:
            root |= {
                "thread_ts": root["ts"],
                "reply_count": len(replies),
                "reply_users": list(dict.fromkeys(m["user"] for m in replies)),
                "latest_reply": replies[-1]["ts"],
            }
        self.change_message(root)

    # Views

    def save_view(self, view: Json) -> None:
        self.views[view["id"]] = view
        self.store.put("view", view["id"], view)
        self.notify("home" if view["type"] == "home" else "view", only=view["_user"], view_id=view["id"])

    def stack(self, user_id: str) -> list[Json]:
        """Return the open modals of a person, the top one last."""
        return [self.views[view_id] for view_id in self.stacks.get(user_id, [])]

    def set_stack(self, user_id: str, view_ids: list[str]) -> None:
        for view_id in set(self.stacks.get(user_id, [])) - set(view_ids):
            self.views.pop(view_id, None)
            self.store.delete("view", view_id)
        self.stacks[user_id] = view_ids
        self.store.put("stack", user_id, view_ids)
        self.notify("view", only=user_id)

    def set_home(self, user_id: str, view: Json) -> None:
        old = self.homes.get(user_id)
        if old and old != view["id"]:
            self.views.pop(old, None)
            self.store.delete("view", old)
        self.homes[user_id] = view["id"]
        self.store.put("home", user_id, view["id"])
        self.save_view(view)

    # Files and response URLs

    def save_file(self, file: Json) -> None:
        self.files[file["id"]] = file
        self.store.put("file", file["id"], file)

    def save_response_url(self, key: str, record: Json) -> None:
        self.response_urls[key] = record
        self.store.put("response_url", key, record)


def public(record: Json) -> Json:
    """Return a record without its internal keys."""
    return {key: value for key, value in record.items() if not key.startswith("_")}
