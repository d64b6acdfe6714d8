"""Posts the notes of operations: in the thread of the card, or elsewhere if Slack allows no reply there."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass

from bot.settings import Settings
from bot.slack.messages import Renderer
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
        key, ours = f"notes {note['id']}", self.settings.slack.channel
        where = places(operation.channel, operation.message_ts, ours, for_others=bool(note["only_in"]))
        for place in where:
            if note["tried"] and self._is_posted(post, operation, key, place):
                return
            self._record(note, "tried = ?", 1)
            try:
                if place.channel == DIRECT:
                    told = self.renderer.say(f"{operation.headed} in <#{operation.channel}>: {said}")
                    post.directly(operation.requester, told, key=key)
                else:
                    told = self.renderer.say(said if place.thread_ts else f"{said} {self._about(operation)}")
                    post.post(place.channel, told, key=key, thread_ts=place.thread_ts)
                return
            except NoEntry:
                if place is where[-1]:
                    raise

    def _about(self, operation: Operation) -> str:
        """Say what is requested, and how to decide on it elsewhere than in the thread of its card."""
        policy = self.settings.policy(operation.command, batch=operation.in_batch)
        return self.renderer.words("card-elsewhere.j2", operation=operation, policy=policy)

    def _is_posted(self, post: Post, operation: Operation, key: str, place: Place) -> bool:
        """Whether a note was posted, but a crash or a lost answer kept that from being recorded.

        If the bot may not look, as in direct messages, the answer is no: better posted twice than never.
        """
        since = search_from(operation.created, self.operations.clock()) - 60
        try:
            return bool(place.channel and post.find(place.channel, key, since=since, thread_ts=place.thread_ts))
        except Refusal as error:
            log.info("cannot look for a note: %s", error)
            return False

    def _record(self, note: sqlite3.Row, update: str, value: float) -> None:
        with self.operations.database.transaction() as transaction:
            transaction.execute(f"UPDATE notes SET {update} WHERE id = ?", (value, note["id"]))  # noqa: S608
