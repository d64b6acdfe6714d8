"""When the heavy jobs of a host's tenants begin (segments, campaigns, imports): each tenant has a slot. Pure.

Nothing is kept of who has which: the parts of a whole that multiples of the golden ratio leave lie as far from each
other as can be, however many there are (the three-distance theorem), so that the number of the operation that gives a
slot is enough, and no two operations have to know of each other.
"""

from __future__ import annotations

from collections.abc import Iterable

CYCLE = 300
"""Seconds within which each tenant begins a heavy job once, as `mautic_ctl.slots` has it."""
_RATIO = (5**0.5 - 1) / 2


def slot_of(operation: int) -> int:
    """Return the slot that an operation gives its tenant: a second of CYCLE."""
    return int(operation * _RATIO % 1 * CYCLE)


def most_at_once(slots: Iterable[int], seconds: int) -> int:
    """Return how many begin at most within so many seconds, over the end of the cycle too."""
    begins = sorted(slots)
    around = [*begins, *(one + CYCLE for one in begins)]
    return max((sum(first <= one < first + seconds for one in around) for first in begins), default=0)
