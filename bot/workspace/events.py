"""Builds the payloads of the Events API and hands them to the delivery."""

import secrets
import time
from collections.abc import Collection

from bot.workspace.delivery import Delivery
from bot.workspace.people import APP_ID, BOT_USER, TEAM, Json
from bot.workspace.state import State, public


class Events:
    """Sends events to the app, as far as it subscribed to them (`wanted`: event names; None: all)."""

    def __init__(self, state: State, delivery: Delivery, wanted: Collection[str] | None) -> None:
        self.state = state
        self.delivery = delivery
        self.wanted = wanted

    def posted(self, message: Json) -> None:
        """Report a message that a person or the app itself posted."""
        event = public(message)
        if message.get("files"):
            event.setdefault("subtype", "file_share")
        broadcast = message.get("subtype") == "thread_broadcast"
        if broadcast:
            event["root"] = public(self.state.find(message["_channel"], message["thread_ts"]))
        self._message(message, event)
        if broadcast:
            # Slack reports a broadcast reply a second time, as a changed message.
            self.changed(message, message)
        self._mentioned(message, event)

    def _mentioned(self, message: Json, event: Json) -> None:
        in_channel = not self.state.channels[message["_channel"]]["is_im"]
        if in_channel and f"<@{BOT_USER}>" in message["text"]:
            self._send("app_mention", self._placed(message, event | {"type": "app_mention"}))

    def changed(self, message: Json, before: Json) -> None:
        """Report a changed message. As in Slack, a person's edit of a message with a mention mentions the app again."""
        if message.get("edited") != before.get("edited") and not message.get("bot_id"):
            self._mentioned(message, public(message))
        self._message(
            message,
            {
                "type": "message",
                "subtype": "message_changed",
                "hidden": True,
                "message": public(message),
                "previous_message": public(before),
                "ts": self.state.next_ts(),
            },
        )

    def deleted(self, message: Json) -> None:
        self._message(
            message,
            {
                "type": "message",
                "subtype": "message_deleted",
                "hidden": True,
                "deleted_ts": message["ts"],
                "previous_message": public(message),
                "ts": self.state.next_ts(),
            },
        )

    def home_opened(self, user_id: str) -> None:
        view = self.state.views.get(self.state.homes.get(user_id, ""))
        event: Json = {
            "type": "app_home_opened",
            "user": user_id,
            "channel": self.state.direct_messages([user_id, BOT_USER])["id"],
            "tab": "home",
            "event_ts": self.state.next_ts(),
        }
        self._send("app_home_opened", event | ({"view": public(view)} if view else {}))

    def group_changed(self, before: Json, after: Json) -> None:
        left = [user for user in before["users"] if user not in after["users"]]
        joined = [user for user in after["users"] if user not in before["users"]]
        self._send(
            "subteam_members_changed",
            {
                "type": "subteam_members_changed",
                "subteam_id": after["id"],
                "team_id": TEAM,
                "date_previous_update": before["date_update"],
                "date_update": after["date_update"],
                "added_users": joined,
                "added_users_count": len(joined),
                "removed_users": left,
                "removed_users_count": len(left),
                "event_ts": self.state.next_ts(),
            },
        )

    def _message(self, message: Json, event: Json) -> None:
        place = self.state.channels[message["_channel"]]
        kind = "im" if place["is_im"] else "mpim" if place["is_mpim"] else None
        kind = kind or ("group" if place["is_private"] else "channel")
        subscription = {"channel": "message.channels", "group": "message.groups"}.get(kind, f"message.{kind}")
        self._send(subscription, self._placed(message, event | {"channel_type": kind}))

    def _placed(self, message: Json, event: Json) -> Json:
        """Return the event with its channel, and in a shared channel with the author's team."""
        placed = event | {"channel": message["_channel"], "event_ts": event["ts"]}
        if self.state.channels[message["_channel"]]["is_ext_shared"]:
            team = self.state.users[message["user"]]["team_id"]
            placed |= {"user_team": team, "source_team": team}
        return placed

    def _send(self, subscription: str, event: Json) -> None:
        if self.wanted is not None and subscription not in self.wanted:
            return
        shared = "channel" in event and self.state.channels[event["channel"]]["is_ext_shared"]
        self.delivery.event(
            {
                "type": "event_callback",
                "token": "local",
                "team_id": TEAM,
                "context_team_id": TEAM,
                "context_enterprise_id": None,
                "api_app_id": APP_ID,
                "event": event,
                "event_id": f"Ev{secrets.token_hex(6).upper()}",
                "event_time": int(time.time()),
                "authorizations": [
                    {
                        "enterprise_id": None,
                        "team_id": TEAM,
                        "user_id": BOT_USER,
                        "is_bot": True,
                        "is_enterprise_install": False,
                    }
                ],
                "is_ext_shared_channel": shared,
                "event_context": f"4-{secrets.token_hex(12)}",
            }
        )
