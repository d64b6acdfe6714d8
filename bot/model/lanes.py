"""Lanes: whose operation begins next. People's come before batches, batches before the bot's own maintenance. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bot.model.turns import in_turn

SYSTEM = "system"
"""Who asks for maintenance."""
MANY = 1 << 62
"""No limit."""


class Lane(IntEnum):
    """Who an operation is for; the lowest comes first."""

    PERSON = 0
    BATCH = 1
    MAINTENANCE = 2


@dataclass(frozen=True)
class Candidate:
    """An operation that waits for its turn, or runs.

    `parent`: the batch that it is a child of, 0: of none; `host`: what that counts it on. `begun`: its tenant is half
    way.
    """

    id: int
    requester: str
    parent: int = 0
    host: str = ""
    begun: bool = False

    @property
    def lane(self) -> Lane:
        """Who it is for."""
        if self.requester == SYSTEM:
            return Lane.MAINTENANCE
        return Lane.BATCH if self.parent else Lane.PERSON

    @property
    def turn(self) -> str:
        """With whom it shares its turns: people take turns with each other, and so do batches."""
        return str(self.parent) if self.lane == Lane.BATCH else self.requester


@dataclass(frozen=True)
class Limits:
    """How many children of one batch may run together, in all and on one host."""

    at_once: int
    at_once_host: int


def in_line(waiting: Iterable[Candidate], running: Sequence[Candidate], shared: int = MANY) -> list[Candidate]:
    """Return those that may begin now, in their order: by lane, and within it by turns, oldest first.

    What has begun already comes before all else, as its tenant is half way.

    Args:
        waiting: in order of age.
        shared: how many that are no person's may run together, so that a person's never waits for all workers.
    """
    line = []
    waits = list(waiting)
    for lane in Lane:
        had = Counter(one.turn for one in running if one.lane == lane)
        line += in_turn([one for one in waits if one.lane == lane], lambda one: one.turn, had)
    free = has_worker(running, shared)
    return sorted([one for one in line if one.begun or one.lane == Lane.PERSON or free], key=lambda one: not one.begun)


def has_worker(running: Iterable[Candidate], shared: int) -> bool:
    """Whether one more that is no person's may run."""
    return sum(one.lane != Lane.PERSON for one in running) < shared


def fits(one: Candidate, running: Iterable[Candidate], limits: Limits) -> bool:
    """Whether a child may run beside its siblings."""
    siblings = [other for other in running if other.parent == one.parent]
    there = sum(other.host == one.host for other in siblings)
    return len(siblings) < limits.at_once and there < limits.at_once_host
