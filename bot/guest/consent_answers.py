"""The shapes of a tenant's answers about opt-outs and erasures: see `bot.guest.answers`. Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from bot.guest.untrusted import Figure, Moment, Untrusted

WITHDRAWALS = 8 << 20
"""Bytes of an answer that holds one page of opt-outs and erasures."""


class Merged(Untrusted):
    """A contact that was merged into another, and the name it had then."""

    contact: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    name: str


class OptOut(Untrusted):
    """One opt-out. `row`: its id in Mautic's table; `born`: when its contact was added (0: unknown).

    `merged`: contacts that were merged into its contact, to whom the opt-out applies too.
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
    """A contact that somebody deleted; `name`: the name it had then, "" if unknown."""

    contact: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    at: Moment
    name: str = ""


class Withdrawals(Untrusted):
    """A page of opt-outs and erasures since a time, and total counts (0 if not requested). `now`: epoch seconds."""

    now: Moment
    contacts: Figure
    opt_outs: Figure
    erasures: Figure
    said: list[OptOut]
    erased: list[Erasure]


class Withdrawn(Untrusted):
    """What was new to a copy: the fields are those of `bot.guest.consent.Withdrawn`."""

    opt_outs: Figure
    erasures: Figure
    unknown: Figure
    mails: Figure
    left: Figure = 0
