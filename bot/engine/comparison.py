"""Compares the audit log with its published heads after a start: a database from a backup lacks what a head names."""

from __future__ import annotations

import logging

from bot.model.lanes import MANY
from bot.settings import Settings
from bot.slack.poster import Hidden, NotPosted, Post
from bot.store import audit, restored
from bot.store.operation import IS_OPEN
from bot.store.operations import Operations

log = logging.getLogger(__name__)
COMPARED = "compared"
"""The key of the guard that keeps changes from beginning until the comparison is done."""
PENDING = (
    "Since it started, the bot could not read in Slack whether its database is the newest one. Until it can, nothing "
    "is decided and nothing new begins; it tries again every minute."
)
AGAIN = 60.0
"""Seconds between two tries."""
CARDS = 40
"""Cards that one try reads: Slack allows 50 such requests a minute."""
WEEK = 7 * 86_400
"""Seconds back for which the bot's messages in its channel are read, and for which a loss is reported."""
_CARDS = (
    f"parent = 0 AND channel <> '' AND message_ts <> '' AND ({IS_OPEN} OR id IN (SELECT parent FROM operations"  # noqa: S608
    f" WHERE {IS_OPEN}))"
)
"""Operations whose cards tell what was decided. A change of a batch's child redraws the card of the batch."""


class Comparison:
    """One comparison, made at a start in as many tries as it takes; until it is done, `operations.compared` is False.

    Heads are in the file beside the database, on the bot's messages in its channel since the newest row, and on the
    cards of open operations: each decision redraws its card, in whatever channel that is.

    Attributes:
        restored: whether it found that the database was restored from a backup.
    """

    def __init__(self, operations: Operations, post: Post, settings: Settings) -> None:
        self.operations = operations
        self.post = post
        self.restored = False
        operations.compared = False
        self._at_start = True
        newest = audit.recent(operations.database, limit=1)
        self._since = newest[0]["at"] if newest else 0.0
        if not newest or newest[0]["event"] == audit.ANEW:
            # A new database is no restored one, whatever was posted and kept before.
            restored.keep_head(operations.database, settings.state)
            self._channel, self._cards = "", []
        else:
            self._channel = settings.slack.channel
            self._cards = [(one.channel, one.message_ts, one.mark) for one in operations.select(_CARDS, limit=MANY)]
        self._lost = audit.unknown(operations.database, restored.kept_head(settings.state))

    def go_on(self) -> bool:
        """Read what was not read yet, and hold what waits once a head turns out to be missing; return whether done."""
        for read in (self._read_channel, self._read_cards):
            try:
                read()
            except NotPosted as error:
                log.warning("whether the database is the newest one is not known: %s", error)
        if self._lost and restored.hold(self.operations, self._lost, working=not self._at_start):
            log.warning("the database was restored from a backup: what waited is cancelled, and all tenants are frozen")
            self.restored = True
        self._at_start = False
        self.operations.compared = bool(self._lost) or not (self._channel or self._cards)
        return self.operations.compared

    def _read_channel(self) -> None:
        """Read the messages in the bot's channel since the newest row: hardly any, except after a restore."""
        if self._channel:
            try:
                since = max(self._since, self.operations.clock() - WEEK)
                heads = self.post.heads(self._channel, since=since)
                if not heads.whole:
                    log.warning("the bot's channel has too many messages to compare them all with the audit log")
                self._compare(heads.seen)
            except Hidden as error:
                log.warning("%s", error)
            self._channel = ""

    def _read_cards(self) -> None:
        for channel, ts, mark in self._cards[:CARDS]:
            try:
                payload = self.post.payload(channel, ts)
            except Hidden as error:
                log.warning("%s", error)
                payload = {}
            if payload.get("id") == mark:
                self._compare([str(payload.get("audit", ""))])
            self._cards.pop(0)

    def _compare(self, heads: list[str]) -> None:
        self._lost += audit.unknown(self.operations.database, heads)
