"""Posts unprompted messages, such as the digest and incidents. Each has a key by which it can be found again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, NamedTuple

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError

from bot.slack.messages import Message

MARK = "mautic_post"
GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed"})
"""Errors with which Slack says that a message was removed, or may no longer be edited."""
NO_ENTRY = frozenset(
    {
        "not_in_channel",
        "channel_not_found",
        "is_archived",
        "no_permission",
        "ekm_access_denied",
        "team_access_not_granted",
    }
)
"""Errors with which Slack lets the bot post nothing in a channel; `is_no_entry` knows more."""
HALF_DONE = frozenset({"internal_error", "fatal_error"})
"""Errors with which Slack may have carried out part of a request before it failed."""
HIDDEN = frozenset({"message_not_found", "missing_scope", "thread_not_found"})
"""Errors beside NO_ENTRY with which Slack does not show something, however often it is asked."""
PAGE, PAGES = 200, 50
"""Messages on a page of history, and pages that are read for heads: Slack gives 50 pages a minute."""
LOOK_BACK = 7 * 86_400
"""Seconds to look back for a message that a clock which was ahead dated in the future."""


class NotPosted(Exception):
    """Slack refused a message or did not answer; without an answer it may have been posted, which `find` tells."""


class Refusal(NotPosted):
    """Slack refused a message."""


class Hidden(Refusal):
    """Slack does not show a channel or a message to the bot, or it was deleted."""


class NoEntry(Hidden):
    """Slack does not let the bot post in a channel, or in its threads."""


class TooBusy(NotPosted):
    """Only a part of a channel was read: it has more messages than the bot reads."""


class Heads(NamedTuple):
    """Heads of the audit log that Slack has; `whole`: whether all the time that was asked for was read."""

    seen: list[str]
    whole: bool


def failed(error: SlackApiError) -> bool:
    """Whether Slack did not refuse a request but failed, and may have carried it out, or was too busy for it."""
    return error.response.status_code != 200 or error.response.get("error") in HALF_DONE


def is_no_entry(error: SlackApiError) -> bool:
    """Whether Slack does not let the bot post in a channel, or in its threads, whatever it posts there."""
    why = str(error.response.get("error"))
    # Announcement channels have an error each: for those who only read, for no threads, and for nothing but threads.
    return why in NO_ENTRY or why.startswith("restricted_action")


def search_from(at: float, now: float) -> float:
    """Return the time from which on to look in Slack for what the bot posted at or after `at` (epoch seconds).

    Slack's own times are right. If `at` is in the future, a clock that was ahead recorded it, and the message is older.
    """
    return at if at <= now else now - LOOK_BACK


def find(pages: Callable[..., Any], meant: Callable[[dict[str, Any]], bool], **where: Any) -> str:
    """Return the ts of the first message that is `meant`, of all pages of conversations.history or .replies, or ""."""
    said = itertools.chain.from_iterable(read(pages, **where))
    return next((str(message["ts"]) for message in said if meant(message)), "")


def is_after(message: dict[str, Any], ts: str) -> bool:
    """Whether a message was posted after the one with this ts; "": any was."""
    return not ts or float(message["ts"]) > float(ts)


def read(pages: Callable[..., Any], **where: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield the messages of each page of conversations.history or .replies."""
    cursor = ""
    while True:
        page = pages(limit=PAGE, include_all_metadata=True, cursor=cursor or None, **where)
        yield page["messages"]
        cursor = (page.get("response_metadata") or {}).get("next_cursor") or ""
        if not cursor:
            return


class Post:
    """Posts in channels. Every method raises Refusal if Slack refuses, NotPosted if it fails or does not answer."""

    def __init__(self, client: WebClient) -> None:
        self.client = client
        self.head: Callable[[], str] = lambda: ""
        """Returns the head of the audit log: every post carries it, so that Slack has a copy."""
        self._user = ""

    def post(self, channel: str, message: Message, *, key: str, thread_ts: str = "") -> str:
        """Post a message, marked with its key, and return its ts."""
        metadata = {"event_type": MARK, "event_payload": {"key": key, "audit": self.head()}}
        with _told(channel):
            posted = self.client.chat_postMessage(
                channel=channel, thread_ts=thread_ts or None, metadata=metadata, **message.arguments()
            )
        return str(posted["ts"])

    def directly(self, person: str, message: Message, *, key: str) -> str:
        """Post a message to one person, in their direct messages with the bot; return its ts."""
        with _told(person):
            channel = str(self.client.conversations_open(users=person)["channel"]["id"])
        return self.post(channel, message, key=key)

    def update(self, channel: str, ts: str, message: Message) -> bool:
        """Update a message; return False if it was removed or can no longer be edited."""
        with _told(channel):
            try:
                self.client.chat_update(channel=channel, ts=ts, **message.arguments())
            except SlackApiError as error:
                if error.response.get("error") not in GONE:
                    raise
                return False
        return True

    def picture(self, channel: str, png: bytes, *, name: str, title: str, thread_ts: str, alt: str = "") -> None:
        """Share a picture in a thread; its file name is its key; `alt` describes it (default: the title)."""
        with _told(channel):
            self.client.files_upload_v2(
                channel=channel, thread_ts=thread_ts, filename=name, title=title, alt_txt=alt or title, content=png
            )

    def file(self, channel: str, text: str, *, name: str, title: str, thread_ts: str) -> None:
        """Share a text as a file in a thread; its file name is its key."""
        with _told(channel):
            self.client.files_upload_v2(
                channel=channel, thread_ts=thread_ts, filename=name, title=title, content=text.encode()
            )

    def heads(self, channel: str, *, since: float) -> Heads:
        """Return the heads of the audit log that the bot's messages in a channel carry, newest first."""
        with _told(channel):
            said = read(self.client.conversations_history, channel=channel, oldest=str(since))
            # Not the first page alone: somebody who truncated the log could hide that behind many messages.
            ours = [one for page in itertools.islice(said, PAGES) for one in page if self._is_ours(one)]
            whole = next(said, None) is None
        # With only the oldest ts given, Slack may begin with the oldest page.
        ours.sort(key=lambda one: float(one["ts"]), reverse=True)
        carried = [(one.get("metadata") or {}).get("event_payload") or {} for one in ours]
        heads = [str(one.get("audit") or "") for one in carried]
        return Heads(list(dict.fromkeys(filter(None, heads))), whole)

    def payload(self, channel: str, ts: str) -> Mapping[str, object]:
        """Return what the metadata of a message contain now; empty without any, or if the bot did not post it."""
        with _told(channel):
            page = self.client.conversations_replies(
                channel=channel, ts=ts, oldest=ts, inclusive=True, limit=1, include_all_metadata=True
            )
            ours = [one.get("metadata") or {} for one in page["messages"] if one["ts"] == ts and self._is_ours(one)]
        return ours[0].get("event_payload") or {} if ours else {}

    def find(self, channel: str, key: str, *, since: float, thread_ts: str = "", after: str = "") -> str:
        """Return the ts of the message or picture of a key, posted after `since`, or "" when there is none.

        For callers that cannot know whether it was posted: a crash came in between, or Slack's answer was lost.
        `after`: the ts of an earlier message of the key that cannot be updated; neither it nor an older one counts.
        """

        def meant(message: dict[str, Any]) -> bool:
            if not is_after(message, after) or not self._is_ours(message):
                return False
            metadata = message.get("metadata") or {}
            marked = metadata.get("event_type") == MARK and metadata["event_payload"].get("key") == key
            return marked or any(file.get("name") == key for file in message.get("files") or [])

        with _told(channel):
            if thread_ts:
                return find(self.client.conversations_replies, meant, channel=channel, ts=thread_ts)
            return find(self.client.conversations_history, meant, channel=channel, oldest=str(since))

    def _is_ours(self, message: dict[str, Any]) -> bool:
        """Whether the bot posted a message: any app may mark a message in the same way, and anybody name a file so."""
        # The bot's user id stays the same for as long as the app is installed, so it is read once.
        self._user = self._user or str(self.client.auth_test()["user_id"])
        return message.get("user") == self._user


@contextmanager
def _told(channel: str) -> Iterator[None]:
    try:
        yield
    except SlackApiError as error:
        why = error.response.get("error")
        if failed(error):
            raise NotPosted(f"Slack failed: {why}.") from error
        kind = NoEntry if is_no_entry(error) else Hidden if why in HIDDEN else Refusal
        raise kind(f"Slack refuses it in {channel}: {why}.") from error
    except (SlackClientError, OSError, HTTPException) as error:
        raise NotPosted(f"Slack does not answer: {error}.") from error
