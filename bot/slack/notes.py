"""Posts the notes of operations: in the thread of the card, or elsewhere if Slack allows no reply there."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass

from bot.settings import Settings
from bot.slack.messages import Message, Renderer
from bot.slack.poster import NoEntry, Post, Refusal, search_from
from bot.store.operation import RESPONDERS, Operation
from bot.store.operations import Operations

log = logging.getLogger(__name__)
DIRECT = ""
"""The channel of a `Place` that is the requester's direct messages with the bot."""


@dataclass(frozen=True)
class Place:
    """A channel (or DIRECT), and a thread in it. Outside the thread of the card a note says what it is about."""

    channel: str
    thread_ts: str = ""


def places(channel: str, ts: str, ours: str, *, for_others: bool) -> list[Place]:
    """Return the places for a note, the best first; each further one is for where Slack allows none of those before.

    Args:
        channel: where the card is; `ts` is the card's.
        ours: the bot's own channel; "": it has none.
        for_others: the note mentions people other than the requester, whose direct messages nobody else reads.
    """
    thread = Place(channel, ts)
    if channel.startswith("D"):
        return [Place(ours)] if for_others and ours else [thread]
    beside = [Place(name) for name in dict.fromkeys((ours, channel)) if name] if for_others else []
    return [thread, *beside, Place(DIRECT)]


class Notes:
    """The notes of operations, rows of the table `notes`."""

    def __init__(self, operations: Operations, renderer: Renderer, settings: Settings) -> None:
        self.operations = operations
        self.renderer = renderer
        self.settings = settings

    def waiting(self, operation: int) -> list[sqlite3.Row]:
        """Return the notes of an operation that are still to be posted, in order."""
        return self.operations.database.read(
            "SELECT id, text, tried, only_in FROM notes WHERE operation = ? AND posted IS NULL ORDER BY id", operation
        )

    def post(self, post: Post, operation: Operation, note: sqlite3.Row, called: str) -> None:
        """Post a note, unless it was posted already or its time is over, and record that.

        `operation`: with the place of its card. `called`: mentions the people who can put it right. Raises NotPosted.
        """
        if note["only_in"] in ("", self.operations.get(operation.id).state):
            self._post(post, operation, note, note["text"].replace(RESPONDERS, called))
        self._record(note, "posted = ?", self.operations.clock())

    def _post(self, post: Post, operation: Operation, note: sqlite3.Row, said: str) -> None:
        ours = self.settings.slack.channel
        where = places(operation.channel, operation.message_ts, ours, for_others=bool(note["only_in"]))
        for place in where:
            try:
                self._post_at(place, post, operation, note, self._pages(operation, said, place, bool(note["only_in"])))
                return
            except NoEntry:
                if place is where[-1]:
                    raise

    def _post_at(self, place: Place, post: Post, operation: Operation, note: sqlite3.Row, pages: list[Message]) -> None:
        thread = place.thread_ts
        for number, page in enumerate(pages):
            key = f"notes {note['id']}" + (f" page {number + 1}" if number else "")
            posted = self._posted(post, operation, key, Place(place.channel, thread)) if note["tried"] else ""
            if not posted:
                self._record(note, "tried = ?", 1)
                if place.channel == DIRECT:
                    post.directly(operation.requester, page, key=key)
                else:
                    posted = post.post(place.channel, page, key=key, thread_ts=thread)
            # Outside a thread, the first message begins one for the others.
            thread = thread or posted

    def _pages(self, operation: Operation, said: str, place: Place, for_others: bool) -> list[Message]:
        """Render a note; one that is too long for a message, such as the list of a rollout, takes several.

        The list of a batch follows a note for others outside the thread, which they may not see.
        """
        if place.channel == DIRECT:
            return self.renderer.pages(f"{operation.headed} in <#{operation.channel}>: {said}")
        if place.thread_ts:
            return self.renderer.pages(said)
        listed = operation.plan.get("texts", {}).get("thread", "") if for_others else ""
        below = self.renderer.pages(listed) if listed else []
        return [*self.renderer.pages(f"{said} {self._about(operation)}"), *below]

    def _about(self, operation: Operation) -> str:
        """Say what is requested, and how to decide on it elsewhere than in the thread of its card."""
        policy = self.settings.policy(operation.command, batch=operation.in_batch)
        return self.renderer.words("card-elsewhere.j2", operation=operation, policy=policy)

    def _posted(self, post: Post, operation: Operation, key: str, place: Place) -> str:
        """Return the ts of a note that was posted, if a crash or a lost answer kept that from being recorded, or "".

        If the bot may not look, as in direct messages, the answer is "": better posted twice than never.
        """
        since = search_from(operation.created, self.operations.clock()) - 60
        try:
            return place.channel and post.find(place.channel, key, since=since, thread_ts=place.thread_ts)
        except Refusal as error:
            log.info("cannot look for a note: %s", error)
            return ""

    def _record(self, note: sqlite3.Row, update: str, value: float) -> None:
        with self.operations.database.transaction() as transaction:
            transaction.execute(f"UPDATE notes SET {update} WHERE id = ?", (value, note["id"]))  # noqa: S608
