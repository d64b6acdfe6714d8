"""Serves the Web API at `/api/<method>`, as strictly as Slack: its dispatch, and the methods about the app itself."""

import json

from aiohttp import web

from bot.workspace import block_kit
from bot.workspace.api_conversations import Conversations
from bot.workspace.api_files import Files
from bot.workspace.api_messages import Messages
from bot.workspace.api_parts import Methods, Parts, must
from bot.workspace.api_people import People
from bot.workspace.api_views import Views
from bot.workspace.delivery import Faults
from bot.workspace.errors import RateLimited, SlackError
from bot.workspace.events import Events
from bot.workspace.interactions import Interactions
from bot.workspace.people import APP_ID, BOT_ID, BOT_USER, TEAM, TEAM_DOMAIN, TEAM_NAME, Json
from bot.workspace.rate_limits import RateLimits
from bot.workspace.socket_mode import SocketMode
from bot.workspace.state import State

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
"""The methods that slack_sdk calls by GET; all others are accepted by POST only."""


class WebApi:
    """The Web API. `bot_token` opens every method except apps.connections.open, which accepts only `app_token`."""

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
        self.socket_mode = socket_mode
        self.faults = faults
        self.base_url = base_url
        self.bot_token = bot_token
        self.app_token = app_token
        self.limits = RateLimits()
        self.scopes = interactions.manifest.scopes
        parts = Parts(state, interactions, events, faults, base_url)
        self.methods: Methods = {
            "auth.test": (self.auth_test, ()),
            "apps.connections.open": (self.open_connection, ()),
            "team.info": (self.team_info, ()),
            "blocks.validate": (self.validate_blocks, ("blocks",)),
        }
        for part in (Messages(parts), Views(parts), People(parts), Conversations(parts), Files(parts)):
            self.methods |= part.methods

    async def handle(self, request: web.Request) -> web.Response:
        """Handle `POST /api/<method>`, or GET for methods that change nothing."""
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
        # URLs end up in logs and browser histories, so a token in one is ignored.
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
                raise SlackError("invalid_arguments", [must("be a string", f"/{name}")])
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
        if needed == "channels:history" and self.state.channels.get(str(arguments.get("channel")), {}).get("is_im"):
            needed = "im:history"
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
