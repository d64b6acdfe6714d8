"""Reads opt-outs and erasures, which bind any sender, in one container of a tenant and repeats them in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.guest.consent_answers import WITHDRAWALS
from bot.guest.mautic import Mautic
from bot.lxd.protocol import TenantAnswerError

PAGE = 2000
"""Rows of each kind that one request asks for."""
MOST = 1_000_000
"""Most rows that are read, whatever number the tenant reports."""
IN_SERVICE = 60.0
"""Seconds that one page may take, as the tenant may be serving."""


@dataclass(frozen=True)
class Withdrawals:
    """Opt-outs and erasures since a time: their numbers, the number of all contacts, and `now` by the tenant's clock.

    `said` (opt-outs) and `erased` are rows in the shapes of `bot.guest.consent_answers`.
    """

    now: float
    contacts: int
    opt_outs: int
    erasures: int
    said: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    erased: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


@dataclass(frozen=True)
class Withdrawn:
    """What was new to a copy. `unknown`: opt-outs of contacts that it does not have; `mails`: how many were dropped.

    `left`: contacts that were not touched, as they are either the erased ones or others with the same numbers.
    """

    opt_outs: int = 0
    erasures: int = 0
    unknown: int = 0
    mails: int = 0
    left: int = 0

    def __add__(self, other: Withdrawn) -> Withdrawn:
        return Withdrawn(
            self.opt_outs + other.opt_outs,
            self.erasures + other.erasures,
            self.unknown + other.unknown,
            self.mails + other.mails,
            self.left + other.left,
        )


class Consent:
    """Reads and repeats the opt-outs and erasures of the Mautic in an instance of one host."""

    def __init__(self, mautic: Mautic) -> None:
        self.mautic = mautic

    def count(self, instance: str, since: float) -> Withdrawals:
        """Count the opt-outs and erasures since then (epoch seconds)."""
        return self._ask(instance, {"since": int(since), "page": 0})

    def pages(self, instance: str, since: float, *, final: bool = False) -> Iterator[Withdrawals]:
        """Yield the opt-outs and erasures since then, PAGE rows of each at a time; the first page has the total counts.

        `final`: the instance has just been closed, and the requests of its visitors are ended first.

        Raises TenantAnswerError if the rows never end.
        """
        after, count, rows = (0, 0), True, 0
        while True:
            request = {"since": int(since), "page": PAGE, "after": after, "final": final and count, "count": count}
            page = self._ask(instance, request)
            if count:
                most = min(MOST, page.opt_outs + page.erasures + 2 * PAGE)
            yield page
            rows += len(page.said) + len(page.erased)
            if max(len(page.said), len(page.erased)) < PAGE:
                return
            reached = (
                max((int(one["row"]) for one in page.said), default=after[0]),
                max((int(one["contact"]) for one in page.erased), default=after[1]),
            )
            if reached <= after or rows > most:
                raise TenantAnswerError(f"`{instance}` answers nonsense to `withdrawals`: its rows have no end.")
            after, count = reached, False

    def withdraw(self, instance: str, page: Withdrawals) -> Withdrawn:
        """Repeat a page in a closed copy; what the copy already has is not added twice."""
        if not page.said and not page.erased:
            return Withdrawn()
        request = {"said": page.said, "erased": page.erased, "batch": _operation(instance)}
        return Withdrawn(**self.mautic.call(instance, "withdraw", request, timeout=600))

    def _ask(self, instance: str, request: Mapping[str, Any]) -> Withdrawals:
        told = self.mautic.call(instance, "withdrawals", request, timeout=IN_SERVICE, limit=WITHDRAWALS)
        return Withdrawals(**told)


def _operation(instance: str) -> int:
    """Return the number of the operation that made a container, 0 if none did: see `candidate_name`."""
    number = instance.rpartition("--")[2]
    return int(number) if number.isdecimal() and "--" in instance else 0
