"""Lanes: which operation begins next. People come before batches, batches before the bot's maintenance. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bot.model.turns import in_turn

SYSTEM = "system"
"""The requester of maintenance: the bot itself."""
MANY = 1 << 62
"""No limit."""


class Lane(IntEnum):
    """The lane of an operation; the lowest comes first."""

    PERSON = 0
    BATCH = 1
    MAINTENANCE = 2


@dataclass(frozen=True)
class Candidate:
    """An operation that waits for its turn, or runs.

    `parent`: the batch that the operation belongs to, 0: none; `host`: the host that it counts on for the batch's
    limits. `begun`: the operation was started before, so that its tenant may be half way.
    """

    id: int
    requester: str
    parent: int = 0
    host: str = ""
    begun: bool = False

    @property
    def lane(self) -> Lane:
        """The lane that the operation waits in."""
        if self.requester == SYSTEM:
            return Lane.MAINTENANCE
        return Lane.BATCH if self.parent else Lane.PERSON

    @property
    def turn(self) -> str:
        """The key that takes turns within the lane: the batch of a child, otherwise the requester."""
        return str(self.parent) if self.lane == Lane.BATCH else self.requester


@dataclass(frozen=True)
class Limits:
    """How many children of one batch may run at once, in total and on one host."""

    at_once: int
    at_once_host: int


def in_line(waiting: Iterable[Candidate], running: Sequence[Candidate], shared: int = MANY) -> list[Candidate]:
    """Return the operations that may begin now: in order of lanes, and within a lane by turns, oldest first.

    Operations that have begun already come first, because their tenants are half way.

    Args:
        waiting: oldest first.
        shared: how many operations of batches and maintenance may run at once, so that workers are left for people.
    """
    line = []
    waits = list(waiting)
    for lane in Lane:
        had = Counter(one.turn for one in running if one.lane == lane)
        line += in_turn([one for one in waits if one.lane == lane], lambda one: one.turn, had)
    free = has_worker(running, shared)
    return sorted([one for one in line if one.begun or one.lane == Lane.PERSON or free], key=lambda one: not one.begun)


def has_worker(running: Iterable[Candidate], shared: int) -> bool:
    """Return whether one more operation of a batch or of maintenance may run."""
    return sum(one.lane != Lane.PERSON for one in running) < shared


def fits(one: Candidate, running: Iterable[Candidate], limits: Limits) -> bool:
    """Return whether a child may run beside its siblings within the limits of its batch."""
    siblings = [other for other in running if other.parent == one.parent]
    there = sum(other.host == one.host for other in siblings)
    return len(siblings) < limits.at_once and there < limits.at_once_host
