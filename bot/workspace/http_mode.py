"""Delivers by signed HTTP to the app's request URL, the alternative to Socket Mode."""

import hashlib
import hmac
import json
import time
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from bot.workspace.delivery import Unreachable
from bot.workspace.people import Json


class HttpMode:
    """The transport to an app that listens at `url`; without a path in it, at `/slack/events`."""

    def __init__(self, url: str, signing_secret: str) -> None:
        address = URL(url)
        self.url = address if address.path.strip("/") else address.with_path("/slack/events")
        self.secret = signing_secret.encode()
        self._session: aiohttp.ClientSession | None = None

    async def send(self, kind: str, payload: Json, retry: int, reason: str) -> Json:
        if kind == "events_api":
            body, content_type = json.dumps(payload), "application/json"
        else:
            form = payload if kind == "slash_commands" else {"payload": json.dumps(payload)}
            body, content_type = urlencode(form), "application/x-www-form-urlencoded"
        stamp = str(int(time.time()))
        signature = hmac.new(self.secret, f"v0:{stamp}:{body}".encode(), hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": content_type,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={signature}",
        }
        if retry:
            headers |= {"X-Slack-Retry-Num": str(retry), "X-Slack-Retry-Reason": reason}
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with self._session.post(self.url, data=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise Unreachable
        except aiohttp.ClientError:
            raise Unreachable from None
        if not text.strip():
            return {}
        try:
            parsed = json.loads(text)
        except ValueError:
            return {"text": text}
        return parsed if isinstance(parsed, dict) else {"text": text}

    async def close(self) -> None:
        if self._session:
            await self._session.close()
