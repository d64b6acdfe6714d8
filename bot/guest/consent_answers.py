"""The answers to what is asked of a tenant about who opted out or was erased: see `bot.guest.answers`. Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from bot.guest.untrusted import Figure, Moment, Untrusted

WITHDRAWALS = 8 << 20
"""Bytes of the answer that holds a page of them."""


class Merged(Untrusted):
    """A contact that was merged into another, and what it was called then."""

    contact: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    name: str


class OptOut(Untrusted):
    """One row of those who are not to be contacted. `row`: its id; `born`: when its contact was added, 0: unknown.

    `merged`: those whose opt-out it is too.
    """

    row: Figure
    contact: Figure
    email: str
    born: Moment
    channel: str
    reason: Annotated[int, Meta(ge=1, le=2**15 - 1)]
    channel_id: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None
    comments: str
    at: Moment
    merged: list[Merged] = field(default_factory=list)


class Erasure(Untrusted):
    """A contact that somebody deleted; `name`: what it was called then, "" where nobody knows."""

    contact: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    at: Moment
    name: str = ""


class Withdrawals(Untrusted):
    """What was said since a time: how much (0 where that was not asked), and a page of it. `now`: epoch seconds."""

    now: Moment
    contacts: Figure
    opt_outs: Figure
    erasures: Figure
    said: list[OptOut]
    erased: list[Erasure]


class Withdrawn(Untrusted):
    """What is new in a copy; `unknown` opt-outs are of contacts that it does not have; `mails` were dropped.

    `left`: contacts that may be erased ones, or others who have their numbers, and are left alone.
    """

    opt_outs: Figure
    erasures: Figure
    unknown: Figure
    mails: Figure
    left: Figure = 0
