"""Carries opt-outs and erasures from a tenant's present container into one that is about to replace it.

Who opted out is not mailed, and who was erased does not come back, whatever a tenant is taken back to. What cannot be
carried is told, and outbound mail stays off for its sake.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bot.fleet.inventory import Host
from bot.guest.consent import Consent, Withdrawals, Withdrawn
from bot.lxd.protocol import LxdError, LxdUnavailable, NotFound

Kind = Literal["opt-outs", "erasures"]
FEW = 100
"""Opt-outs, or erasures, that are never too many: a tenant may have a handful of contacts."""
MARGIN = 3600.0
"""Seconds of before that are carried too: clocks differ, and what is there already is not said twice."""
OVERLAP = 120.0
"""The same where both times are of one clock."""


@dataclass(frozen=True)
class Carried:
    """What was carried, as of `now` by the clock of the container that it came from; `left`: what was not, and why."""

    done: Withdrawn
    now: float
    left: tuple[str, ...] = ()

    def told(self) -> str:
        """Say it in a few words."""
        said = f"{in_words(self.done.opt_outs, self.done.erasures)} carried back"
        if self.done.mails:
            said += f", {_counted(self.done.mails, 'waiting mail')} to them dropped"
        return "; ".join([said, *self.left])


def in_words(opt_outs: int, erasures: int) -> str:
    """Say how many."""
    return f"{_counted(opt_outs, 'opt-out')}, {_counted(erasures, 'deleted contact')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def too_many(found: Withdrawals, percent: int, done: str) -> dict[Kind, str]:
    """Return which of the two are absurdly many, so that they are not carried, with a sentence for each.

    `percent`: the share of all contacts that they may be, 0: any. `done`: since when, as in “upgrade”.
    """
    most = max(FEW, (found.contacts + found.erasures) * percent // 100)
    kinds: tuple[tuple[Kind, int, str], ...] = (
        ("opt-outs", found.opt_outs, "opt-out"),
        ("erasures", found.erasures, "deleted contact"),
    )
    return {
        kind: f"{_counted(number, word)} since the {done}, over {percent}% of all contacts, not carried back"
        for kind, number, word in kinds
        if percent and number > most
    }


def carry(
    host: Host, source: str, target: str, since: float, percent: int, done: str, *, final: bool = False
) -> Carried:
    """Carry what was said in `source` since then (epoch seconds) into `target`, which is closed, on the same host.

    Safe to repeat. Raises LxdError where `target` fails; where `source` does, that is told in `left`.

    Args:
        percent: as in `too_many`, like `done`.
        final: `source` has just been closed, and what its visitors have at hand is ended first.
    """
    consent = Consent(host.mautic)
    carried: Carried | None = None
    many: dict[Kind, str] = {}
    pages = consent.pages(source, since, final=final)
    while True:
        try:
            page = next(pages, None)
        except (LxdUnavailable, NotFound):
            raise
        except LxdError as error:
            so_far = carried or Carried(Withdrawn(), 0.0)
            return replace(so_far, left=(*so_far.left, f"opt-outs and deletions could not all be read: {error}"))
        if page is None:
            return _told(carried) if carried else Carried(Withdrawn(), 0.0)
        if carried is None:
            many = too_many(page, percent, done)
            carried = Carried(Withdrawn(), page.now, tuple(many.values()))
        kept = replace(
            page, said=() if "opt-outs" in many else page.said, erased=() if "erasures" in many else page.erased
        )
        carried = replace(carried, done=carried.done + consent.withdraw(target, kept))
        if len(many) == 2:
            return _told(carried)


def _told(carried: Carried) -> Carried:
    """Say how many who were erased may still be there: it is for a person to look before mail goes out."""
    if not (alone := carried.done.left):
        return carried
    who = "1 deleted contact is" if alone == 1 else f"{alone} deleted contacts are"
    why = "as the numbers may be other people's here: look for them in Mautic before you turn mail on"
    return replace(carried, left=(*carried.left, f"{who} not deleted again, {why}"))
