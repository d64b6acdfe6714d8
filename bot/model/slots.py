"""Slots: spread the starts of tenants' heavy jobs (segments, campaigns, imports) over five minutes. Pure.

The slot is computed from the number of the operation that assigns it: the fractional parts of the golden ratio's
multiples are spread evenly, however many there are (the three-distance theorem). So no list of slots is kept, and no
two operations have to know about each other.
"""

from __future__ import annotations

from collections.abc import Iterable

CYCLE = 300
"""Seconds within which each tenant begins one heavy job, as in `mautic_ctl.slots`."""
_RATIO = (5**0.5 - 1) / 2


def slot_of(operation: int) -> int:
    """Return the slot that an operation assigns to its tenant: a second of CYCLE."""
    return int(operation * _RATIO % 1 * CYCLE)


def most_at_once(slots: Iterable[int], seconds: int) -> int:
    """Return the highest number of slots within any period of `seconds`, also across the end of the cycle."""
    begins = sorted(slots)
    around = [*begins, *(one + CYCLE for one in begins)]
    return max((sum(first <= one < first + seconds for one in around) for first in begins), default=0)
