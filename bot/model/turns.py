"""Who is next: people take turns, so that whoever sends a lot at once waits for themself and for nobody else. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

T = TypeVar("T")


def in_turn(
    these: Iterable[T], person: Callable[[T], str], in_hand: Mapping[str, int] = MappingProxyType({})
) -> list[T]:
    """Return these, which are in order of age, by turns: the first of each person, then the second of each.

    `in_hand`: how many of each person's have had their turn already.
    """
    had = Counter(in_hand)
    turns = []
    for one in these:
        turns.append((had[person(one)], one))
        had[person(one)] += 1
    return [one for _, one in sorted(turns, key=lambda turn: turn[0])]


class Turns(Generic[T]):
    """What waits, in a line for each person. `at_once`: what one person may have in hand together."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        # In the order of their turns.
        self._lines: dict[str, deque[T]] = {}
        self._in_hand: Counter[str] = Counter()

    def add(self, person: str, one: T) -> None:
        """Put something at the end of a person's line."""
        self._lines.setdefault(person, deque()).append(one)

    def take(self) -> tuple[str, T] | None:
        """Return whose turn it is, and what is first in their line, which is in hand from now on; None: nobody's."""
        for person, line in self._lines.items():
            if self._in_hand[person] < self.at_once:
                one = line.popleft()
                del self._lines[person]
                if line:
                    self._lines[person] = line
                self._in_hand[person] += 1
                return person, one
        return None

    def done(self, person: str) -> None:
        """Say that something of a person's is in hand no more."""
        self._in_hand[person] -= 1
        if not self._in_hand[person]:
            del self._in_hand[person]
