"""The Web API: /api/<method>, as strict as Slack's."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from bot.workspace import block_kit
from bot.workspace.delivery import Faults
from bot.workspace.errors import RateLimited, SlackError
from bot.workspace.events import Events
from bot.workspace.interactions import Interactions
from bot.workspace.people import APP_ID, BOT_ID, BOT_USER, TEAM, TEAM_DOMAIN, TEAM_NAME, Json
from bot.workspace.rate_limits import RateLimits
from bot.workspace.socket_mode import SocketMode
from bot.workspace.state import State, public

Method = Callable[[Json], Json]

_JSON_ARGUMENTS = {"blocks", "attachments", "view", "files", "metadata"}
_SCOPES = {
    "chat.postMessage": "chat:write",
    "chat.update": "chat:write",
    "chat.delete": "chat:write",
    "chat.postEphemeral": "chat:write",
    "users.info": "users:read",
    "users.list": "users:read",
    "users.lookupByEmail": "users:read.email",
    "usergroups.list": "usergroups:read",
    "usergroups.users.list": "usergroups:read",
    "conversations.info": "channels:read",
    "conversations.list": "channels:read",
    "conversations.members": "channels:read",
    "conversations.history": "channels:history",
    "conversations.replies": "channels:history",
    "conversations.open": "im:write",
    "reactions.add": "reactions:write",
    "reactions.remove": "reactions:write",
    "files.getUploadURLExternal": "files:write",
    "files.completeUploadExternal": "files:write",
    "team.info": "team:read",
}


_READS = frozenset(
    [
        "chat.getPermalink",
        "conversations.history",
        "conversations.info",
        "conversations.list",
        "conversations.members",
        "conversations.replies",
        "team.info",
        "usergroups.list",
        "usergroups.users.list",
        "users.info",
        "users.list",
        "users.lookupByEmail",
    ]
)
"""What slack_sdk asks for by GET; all else is taken by POST alone."""


class WebApi:
    """`bot_token` opens every method but apps.connections.open, which takes `app_token` alone."""

    def __init__(
        self,
        state: State,
        interactions: Interactions,
        events: Events,
        socket_mode: SocketMode,
        faults: Faults,
        base_url: str,
        bot_token: str,
        app_token: str,
    ) -> None:
        self.state = state
        self.interactions = interactions
        self.events = events
        self.socket_mode = socket_mode
        self.faults = faults
        self.base_url = base_url
        self.bot_token = bot_token
        self.app_token = app_token
        self.limits = RateLimits()
        self.scopes = interactions.manifest.scopes
        self.methods: dict[str, tuple[Method, tuple[str, ...]]] = {
            "auth.test": (self.auth_test, ()),
            "apps.connections.open": (self.open_connection, ()),
            "chat.postMessage": (self.post_message, ("channel",)),
            "chat.update": (self.update_message, ("channel", "ts")),
            "chat.delete": (self.delete_message, ("channel", "ts")),
            "chat.postEphemeral": (self.post_ephemeral, ("channel", "user")),
            "chat.getPermalink": (self.permalink, ("channel", "message_ts")),
            "views.open": (self.open_view, ("trigger_id", "view")),
            "views.push": (self.push_view, ("trigger_id", "view")),
            "views.update": (self.update_view, ("view",)),
            "views.publish": (self.publish_view, ("user_id", "view")),
            "users.info": (self.user_info, ("user",)),
            "users.list": (self.user_list, ()),
            "users.lookupByEmail": (self.user_by_email, ("email",)),
            "usergroups.list": (self.group_list, ()),
            "usergroups.users.list": (self.group_users, ("usergroup",)),
            "conversations.info": (self.conversation_info, ("channel",)),
            "conversations.list": (self.conversation_list, ()),
            "conversations.members": (self.conversation_members, ("channel",)),
            "conversations.history": (self.history, ("channel",)),
            "conversations.replies": (self.replies, ("channel", "ts")),
            "conversations.open": (self.open_conversation, ()),
            "reactions.add": (self.add_reaction, ("channel", "timestamp", "name")),
            "reactions.remove": (self.remove_reaction, ("name",)),
            "files.getUploadURLExternal": (self.upload_url, ("filename", "length")),
            "files.completeUploadExternal": (self.complete_upload, ("files",)),
            "team.info": (self.team_info, ()),
            "blocks.validate": (self.validate_blocks, ("blocks",)),
        }

    async def handle(self, request: web.Request) -> web.Response:
        """POST /api/<method>, or GET of what changes nothing."""
        if self.faults.take("api_down"):
            return web.Response(status=503, text="<html>Service Unavailable</html>", content_type="text/html")
        name = request.match_info["method"]
        headers: dict[str, str] = {}
        try:
            if name not in self.methods:
                raise SlackError("unknown_method", req_method=name)
            if request.method != "POST" and name not in _READS:
                raise web.HTTPMethodNotAllowed(request.method, ["POST"])
            method, required = self.methods[name]
            arguments = await self._arguments(request)
            self._authorise(name, request, arguments)
            headers["x-oauth-scopes"] = ",".join(sorted(self.scopes or set(_SCOPES.values())))
            headers["x-accepted-oauth-scopes"] = _SCOPES.get(name, "")
            self.faults.before_call(name)
            if self.faults.limits:
                self.limits.spend(name, str(arguments.get("channel", "")))
            missing = [field for field in required if arguments.get(field) in (None, "")]
            if missing:
                lines = [f"[ERROR] missing required field: {field}" for field in missing]
                raise SlackError("invalid_arguments", lines)
            body = {"ok": True, **method(arguments)}
        except RateLimited as refused:
            headers["Retry-After"] = str(refused.retry_after)
            return web.json_response(refused.body, status=429, headers=headers)
        except SlackError as refused:
            return web.json_response(refused.body, headers=headers)
        return web.json_response(body, headers=headers)

    # The request

    async def _arguments(self, request: web.Request) -> Json:
        # Addresses stand in logs and histories: no token is taken from there.
        arguments: Json = {name: value for name, value in request.query.items() if name != "token"}
        if request.content_type == "application/json":
            text = await request.text()
            try:
                body = json.loads(text) if text.strip() else {}
            except ValueError:
                raise SlackError("invalid_json") from None
            if not isinstance(body, dict):
                raise SlackError("json_not_object")
            arguments |= body
        elif request.content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
            arguments |= {name: value for name, value in (await request.post()).items()}
        elif request.can_read_body:
            raise SlackError("invalid_post_type")
        for name in _JSON_ARGUMENTS & arguments.keys():
            if isinstance(arguments[name], str) and arguments[name]:
                try:
                    arguments[name] = json.loads(arguments[name])
                except ValueError:
                    wrong = {"blocks": "invalid_blocks_format", "metadata": "invalid_metadata_format"}
                    raise SlackError(wrong.get(name, "invalid_arguments")) from None
        for name in arguments.keys() - _JSON_ARGUMENTS - {"users"}:
            if isinstance(arguments[name], list | dict):
                raise SlackError("invalid_arguments", [_must("be a string", f"/{name}")])
            if isinstance(arguments[name], int | float) and not isinstance(arguments[name], bool):
                arguments[name] = str(arguments[name])
        return arguments

    def _authorise(self, name: str, request: web.Request, arguments: Json) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        token = token or str(arguments.pop("token", ""))
        if not token:
            raise SlackError("not_authed")
        if token not in (self.bot_token, self.app_token):
            raise SlackError("invalid_auth")
        if (name == "apps.connections.open") != (token == self.app_token):
            raise SlackError("not_allowed_token_type")
        needed = _SCOPES.get(name)
        if self.scopes is not None and needed and needed not in self.scopes:
            raise SlackError("missing_scope", needed=needed, provided=",".join(sorted(self.scopes)))

    # The app itself

    def auth_test(self, given: Json) -> Json:
        return {
            "url": f"{self.base_url}/",
            "team": TEAM_NAME,
            "user": "mautic",
            "team_id": TEAM,
            "user_id": BOT_USER,
            "bot_id": BOT_ID,
            "app_id": APP_ID,
            "is_enterprise_install": False,
        }

    def open_connection(self, given: Json) -> Json:
        ticket = self.socket_mode.open()
        return {"url": f"{self.base_url.replace('http', 'ws', 1)}/link/?ticket={ticket}&app_id={APP_ID}"}

    def team_info(self, given: Json) -> Json:
        return {"team": {"id": TEAM, "name": TEAM_NAME, "domain": TEAM_DOMAIN, "url": f"{self.base_url}/"}}

    def validate_blocks(self, given: Json) -> Json:
        block_kit.message_blocks(given["blocks"])
        return {}

    # Messages

    def post_message(self, given: Json) -> Json:
        place = self._open_place(given["channel"], open_im=True)
        if place["is_im"] and not self.interactions.manifest.messages_tab:
            raise SlackError("messages_tab_disabled")
        content = self._content(given)
        thread_ts = self._thread(place, given.get("thread_ts"))
        if thread_ts and _flag(given.get("reply_broadcast")):
            content["subtype"] = "thread_broadcast"
        message = self.state.add_message(
            place["id"], BOT_USER, thread_ts=thread_ts, metadata=given.get("metadata"), **content
        )
        self.events.posted(message)
        return {"channel": place["id"], "ts": message["ts"], "message": public(message)}

    def post_ephemeral(self, given: Json) -> Json:
        place = self._open_place(given["channel"])
        if given["user"] not in place["members"]:
            raise SlackError("user_not_in_channel")
        content = self._content(given)
        thread_ts = self._thread(place, given.get("thread_ts"))
        message = self.state.add_message(place["id"], BOT_USER, to=given["user"], thread_ts=thread_ts, **content)
        return {"message_ts": message["ts"]}

    def update_message(self, given: Json) -> Json:
        place = self._place(given["channel"])
        message = self._own(place, given["ts"], "cant_update_message")
        before = dict(message)
        blocks = given.get("blocks")
        if blocks is None and given.get("attachments") is None and not given.get("text"):
            raise SlackError("no_text")
        # An empty array takes the blocks away; so does text without blocks.
        content = self._content({"text": message["text"], **_present(given)})
        if len(content["text"]) > block_kit.UPDATE_TEXT:
            raise SlackError("msg_too_long")
        for name in ("blocks", "attachments"):
            if given.get(name) is not None or (name == "blocks" and given.get("text")):
                message.pop(name, None)
        message |= {name: value for name, value in content.items() if value or name == "text"}
        # Without it the metadata stays; an empty object takes it away.
        if given.get("metadata") is not None:
            message["metadata"] = given["metadata"] or None
        if blocks is None:
            message["edited"] = {"user": BOT_USER, "ts": self.state.next_ts()}
        self.state.change_message(message)
        self.events.changed(message, before)
        return {
            "channel": place["id"],
            "ts": message["ts"],
            "text": message["text"],
            "message": public(message),
        }

    def delete_message(self, given: Json) -> Json:
        place = self._place(given["channel"])
        message = self._own(place, given["ts"], "cant_delete_message")
        self.state.remove_message(message)
        self.events.deleted(message)
        return {"channel": place["id"], "ts": message["ts"]}

    def permalink(self, given: Json) -> Json:
        place = self._place(given["channel"])
        message = self.state.find(place["id"], str(given["message_ts"]))
        link = f"{self.base_url}/archives/{place['id']}/p{message['ts'].replace('.', '')}"
        if message.get("thread_ts", message["ts"]) != message["ts"]:
            link += f"?thread_ts={message['thread_ts']}&cid={place['id']}"
        return {"channel": place["id"], "permalink": link}

    def add_reaction(self, given: Json) -> Json:
        message, name = self._reacted(given)
        reactions = message.setdefault("reactions", [])
        reaction = next((one for one in reactions if one["name"] == name), None)
        if reaction is None:
            reaction = {"name": name, "users": [], "count": 0}
            reactions.append(reaction)
        if BOT_USER in reaction["users"]:
            raise SlackError("already_reacted")
        reaction["users"].append(BOT_USER)
        reaction["count"] += 1
        self.state.change_message(message)
        return {}

    def remove_reaction(self, given: Json) -> Json:
        message, name = self._reacted(given)
        for reaction in message.get("reactions", []):
            if reaction["name"] == name and BOT_USER in reaction["users"]:
                reaction["users"].remove(BOT_USER)
                reaction["count"] -= 1
                message["reactions"] = [one for one in message["reactions"] if one["count"]]
                self.state.change_message(message)
                return {}
        raise SlackError("no_reaction")

    # Views

    def open_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "modal")
        trigger = self.interactions.use_trigger(given["trigger_id"])
        return {"view": public(self.interactions.open_view(trigger.user, wanted))}

    def push_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "modal")
        trigger = self.interactions.use_trigger(given["trigger_id"])
        if trigger.from_view is None:
            raise SlackError("invalid_trigger_id")
        return {"view": public(self.interactions.push_view(trigger.user, wanted))}

    def update_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "modal")
        for view in self.state.views.values():
            if view["id"] == given.get("view_id") or (
                given.get("external_id") and view["external_id"] == given["external_id"]
            ):
                return {"view": public(self.interactions.update_view(view, wanted, given.get("hash")))}
        raise SlackError("not_found")

    def publish_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "home")
        user = self._user(given["user_id"])
        return {"view": public(self.interactions.publish_home(user["id"], wanted, given.get("hash")))}

    # People

    def user_info(self, given: Json) -> Json:
        return {"user": self._user(given["user"])}

    def user_list(self, given: Json) -> Json:
        members, cursor = _page(list(self.state.users.values()), given)
        return {"members": members, "cache_ts": int(time.time()), "response_metadata": cursor}

    def user_by_email(self, given: Json) -> Json:
        for user in self.state.users.values():
            if user["profile"]["email"] == given["email"]:
                return {"user": user}
        raise SlackError("users_not_found")

    def group_list(self, given: Json) -> Json:
        self._refuse_on_a_free_plan()
        groups = [dict(group) for group in self.state.groups.values()]
        if not _flag(given.get("include_users")):
            for group in groups:
                del group["users"]
        return {"usergroups": groups}

    def group_users(self, given: Json) -> Json:
        self._refuse_on_a_free_plan()
        group = self.state.groups.get(given["usergroup"])
        if group is None:
            raise SlackError("no_such_subteam")
        return {"users": group["users"]}

    # Conversations

    def conversation_info(self, given: Json) -> Json:
        # Unlike others it takes no name, and tells of public channels that the app is not in.
        place = self.state.channels.get(given["channel"])
        if place is None or (place["is_private"] and BOT_USER not in place["members"]):
            raise SlackError("channel_not_found")
        channel = _without_members(place)
        if _flag(given.get("include_num_members")):
            channel["num_members"] = len(place["members"])
        return {"channel": channel}

    def conversation_list(self, given: Json) -> Json:
        kinds = str(given.get("types") or "public_channel").split(",")
        places = [
            _without_members(place)
            for place in self.state.channels.values()
            if BOT_USER in place["members"] and _kind(place) in kinds
        ]
        page, cursor = _page(places, given)
        return {"channels": page, "response_metadata": cursor}

    def conversation_members(self, given: Json) -> Json:
        members, cursor = _page(self._place(given["channel"])["members"], given)
        return {"members": members, "response_metadata": cursor}

    def history(self, given: Json) -> Json:
        place = self._place(given["channel"])
        within = _window(given)
        messages = [m for m in self.state.roots(place["id"]) if within(m["ts"])]
        page, cursor = _page([public(m) for m in reversed(messages)], given)
        return {
            "messages": page,
            "has_more": bool(cursor["next_cursor"]),
            "pin_count": 0,
            "response_metadata": cursor,
        }

    def replies(self, given: Json) -> Json:
        place = self._place(given["channel"])
        named = self.state.messages.get(place["id"], {}).get(str(given["ts"]))
        if named is None or "_to" in named:
            raise SlackError("thread_not_found")
        root_ts = str(named.get("thread_ts", named["ts"]))
        messages = self.state.thread(place["id"], root_ts)
        within = _window(given)
        messages = [m for m in messages if m["ts"] == root_ts or within(m["ts"])]
        page, cursor = _page([public(m) for m in messages], given)
        return {"messages": page, "has_more": bool(cursor["next_cursor"]), "response_metadata": cursor}

    def open_conversation(self, given: Json) -> Json:
        if given.get("channel"):
            return {"channel": {"id": self._place(given["channel"])["id"]}}
        if not given.get("users"):
            raise SlackError("users_list_not_supplied")
        users = given["users"] if isinstance(given["users"], list) else str(given["users"]).split(",")
        known = [self._user(user.strip())["id"] for user in users]
        return {"channel": {"id": self.state.direct_messages([*known, BOT_USER])["id"]}}

    # Files

    def upload_url(self, given: Json) -> Json:
        try:
            size = int(given["length"])
        except ValueError:
            raise SlackError("invalid_arguments", ["[ERROR] must be an integer: length"]) from None
        file = self.interactions.files.new(BOT_USER, str(given["filename"]), size, given.get("alt_txt"))
        return {"upload_url": f"{self.base_url}/upload/{file['id']}", "file_id": file["id"]}

    def complete_upload(self, given: Json) -> Json:
        if not isinstance(given["files"], list):
            raise SlackError("invalid_arguments", [_must("be an array", "/files")])
        files = []
        for wanted in given["files"]:
            file = self.state.files.get(wanted.get("id", "")) if isinstance(wanted, dict) else None
            if file is None or not file["_uploaded"]:
                raise SlackError("file_not_found")
            file["title"] = wanted.get("title") or file["name"]
            self.state.save_file(file)
            files.append(public(file))
        channel = given.get("channel_id") or str(given.get("channels") or "").split(",")[0]
        if channel:
            place = self._open_place(channel)
            message = self.state.add_message(
                place["id"],
                BOT_USER,
                text=given.get("initial_comment") or "",
                blocks=block_kit.message_blocks(given["blocks"]) if given.get("blocks") else None,
                files=files,
                thread_ts=self._thread(place, given.get("thread_ts")),
            )
            self.events.posted(message)
        return {"files": files}

    # Parts

    def _place(self, channel: Any, open_im: bool = False) -> Json:
        wanted = str(channel).removeprefix("#")
        for place in self.state.channels.values():
            if wanted in (place["id"], place["name"]):
                if BOT_USER not in place["members"]:
                    raise SlackError("not_in_channel" if not place["is_private"] else "channel_not_found")
                return place
        if open_im and wanted in self.state.users:
            return self.state.direct_messages([wanted, BOT_USER])
        raise SlackError("channel_not_found")

    def _open_place(self, channel: Any, open_im: bool = False) -> Json:
        """A channel that takes new messages."""
        place = self._place(channel, open_im)
        if place["is_archived"]:
            raise SlackError("is_archived")
        return place

    def _refuse_on_a_free_plan(self) -> None:
        if not self.faults.user_groups:
            raise SlackError("plan_upgrade_required")

    def _user(self, user_id: Any) -> Json:
        user = self.state.users.get(str(user_id))
        if user is None:
            raise SlackError("user_not_found")
        return user

    def _thread(self, place: Json, thread_ts: Any) -> str | None:
        if not thread_ts:
            return None
        root = self.state.messages.get(place["id"], {}).get(str(thread_ts))
        if root is None:
            raise SlackError("thread_not_found")
        if "_to" in root:
            raise SlackError("cannot_reply_to_message")
        return str(root.get("thread_ts", root["ts"]))

    def _content(self, given: Json) -> Json:
        """The content of a new message, with no picture in it that was not uploaded."""
        content = block_kit.message_content(given)
        uploaded = [file for file in self.state.files.values() if file["_uploaded"]]
        known = {file[key] for file in uploaded for key in ("id", "url_private", "permalink")}
        for number, block in enumerate(content["blocks"]):
            named = block.get("slack_file") or {}
            if named and (len(named) != 1 or known.isdisjoint(named.values())):
                wrong = f"invalid slack file [json-pointer:/blocks/{number}/slack_file]"
                raise SlackError("invalid_blocks", [f"[ERROR] {wrong}"], errors=[wrong])
        return content

    def _own(self, place: Json, ts: Any, otherwise: str) -> Json:
        message = self.state.find(place["id"], str(ts))
        if "_to" in message:
            raise SlackError("message_not_found")
        if message["user"] != BOT_USER:
            raise SlackError(otherwise)
        return message

    def _reacted(self, given: Json) -> tuple[Json, str]:
        place = self._place(given.get("channel", ""))
        name = str(given["name"]).strip(":")
        if not re.fullmatch(r"[a-z0-9_+'-]+(::skin-tone-[2-6])?", name):
            raise SlackError("invalid_name")
        return self.state.find(place["id"], str(given.get("timestamp", ""))), name


def _must(text: str, pointer: str) -> str:
    return f"[ERROR] must {text} [json-pointer:{pointer}]"


def _flag(value: Any) -> bool:
    return value in (True, 1, "1", "true", "True")


def _present(given: Json) -> Json:
    return {name: given[name] for name in ("text", "blocks", "attachments") if given.get(name) is not None}


def _kind(place: Json) -> str:
    if place["is_im"]:
        return "im"
    if place["is_mpim"]:
        return "mpim"
    return "private_channel" if place["is_private"] else "public_channel"


def _without_members(place: Json) -> Json:
    return {key: value for key, value in place.items() if key != "members"}


def _window(given: Json) -> Callable[[str], bool]:
    """Whether a ts is within `oldest` and `latest`."""
    bounds = {"oldest": 0.0, "latest": 1e12}
    for name in bounds:
        try:
            bounds[name] = float(given.get(name) or bounds[name])
        except ValueError:
            raise SlackError(f"invalid_ts_{name}") from None
    oldest, latest = bounds["oldest"], bounds["latest"]
    if _flag(given.get("inclusive")):
        return lambda ts: oldest <= float(ts) <= latest
    return lambda ts: oldest < float(ts) < latest


def _page(items: list[Any], given: Json) -> tuple[list[Any], Json]:
    """One page by `limit` (100 if not given) and `cursor`, and the response_metadata with the next."""
    try:
        limit = int(given.get("limit") or 100)
        start = int(str(given.get("cursor") or "c0").removeprefix("c"))
    except ValueError:
        raise SlackError("invalid_cursor") from None
    if not 1 <= limit <= 1000:
        raise SlackError("invalid_limit")
    end = start + limit
    return items[start:end], {"next_cursor": f"c{end}" if end < len(items) else ""}
