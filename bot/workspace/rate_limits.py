"""Enforces Slack's rate limits: calls a minute by method, and messages a second by channel."""

import math
import time

from bot.workspace.errors import RateLimited

_A_MINUTE = {
    "apps.connections.open": 20,
    "usergroups.list": 20,
    "usergroups.users.list": 20,
    "users.list": 20,
    "conversations.list": 20,
    "reactions.remove": 20,
    "chat.update": 50,
    "chat.delete": 50,
    "conversations.info": 50,
    "conversations.history": 50,
    "conversations.replies": 50,
    "conversations.open": 50,
    "reactions.add": 50,
    "team.info": 50,
    "users.lookupByEmail": 50,
    "blocks.validate": 50,
    "views.open": 100,
    "views.update": 100,
    "views.push": 100,
    "views.publish": 100,
    "chat.postEphemeral": 100,
    "users.info": 100,
    "conversations.members": 100,
    "files.getUploadURLExternal": 100,
    "files.completeUploadExternal": 100,
}
POST_BURST = 10  # messages to one channel before the limit of one a second applies


class RateLimits:
    """Token buckets that start full, so that a minute's calls may be made at once."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(self, method: str, channel: str) -> None:
        """Count one call; raise RateLimited when its bucket is empty."""
        if method == "chat.postMessage":
            self._spend(f"{method} {channel}", capacity=POST_BURST, a_second=1.0)
        elif method in _A_MINUTE:
            self._spend(method, capacity=_A_MINUTE[method], a_second=_A_MINUTE[method] / 60)

    def _spend(self, key: str, capacity: float, a_second: float) -> None:
        now = time.monotonic()
        tokens, since = self._buckets.get(key, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * a_second)
        if tokens < 1:
            self._buckets[key] = (tokens, now)
            raise RateLimited(math.ceil((1 - tokens) / a_second))
        self._buckets[key] = (tokens - 1, now)
