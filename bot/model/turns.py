"""Fair queues: people take turns, so that a person who sends many requests at once only delays themself. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

T = TypeVar("T")


def in_turn(
    these: Iterable[T], person: Callable[[T], str], in_hand: Mapping[str, int] = MappingProxyType({})
) -> list[T]:
    """Return items, which come oldest first, by turns: the first of each person, then the second of each.

    `in_hand`: how many items of each person have had their turn already.
    """
    had = Counter(in_hand)
    turns = []
    for one in these:
        turns.append((had[person(one)], one))
        had[person(one)] += 1
    return [one for _, one in sorted(turns, key=lambda turn: turn[0])]


class Turns(Generic[T]):
    """Waiting items, in one line per person. `at_once`: how many items of one person may be in hand at once."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        # Ordered by turn: the next person comes first.
        self._lines: dict[str, deque[T]] = {}
        self._in_hand: Counter[str] = Counter()

    def add(self, person: str, one: T) -> None:
        """Add an item at the end of a person's line."""
        self._lines.setdefault(person, deque()).append(one)

    def take(self) -> tuple[str, T] | None:
        """Take the first item in the line of the person whose turn it is: (person, item); None where nobody is next."""
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
        """Record that an item of a person is no longer in hand."""
        self._in_hand[person] -= 1
        if not self._in_hand[person]:
            del self._in_hand[person]
