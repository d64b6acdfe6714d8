"""Carries opt-outs and erasures from a tenant's present container into one that is about to replace it.

Whatever state a tenant goes back to, people who opted out get no mail, and erased contacts do not return. The bot
reports what it could not carry over, and outbound mail then stays off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bot.fleet.inventory import Host
from bot.guest.consent import Consent, Withdrawals, Withdrawn
from bot.lxd.protocol import LxdError, LxdUnavailable, NotFound

Kind = Literal["opt-outs", "erasures"]
FEW = 100
"""The number of opt-outs, or of erasures, that is never too many: a tenant may have only a handful of contacts."""
MARGIN = 3600.0
"""Seconds before the start from which changes are carried too, as clocks differ; known ones are not repeated."""
OVERLAP = 120.0
"""The same margin, in seconds, where both times come from one clock."""


@dataclass(frozen=True)
class Carried:
    """What was carried, as of `now` by the clock of the source container; `left`: what was not carried, and why."""

    done: Withdrawn
    now: float
    left: tuple[str, ...] = ()

    def told(self) -> str:
        """Return the result in a few words."""
        said = f"{in_words(self.done.opt_outs, self.done.erasures)} carried back"
        if self.done.mails:
            said += f", {_counted(self.done.mails, 'waiting mail')} to them dropped"
        return "; ".join([said, *self.left])


def in_words(opt_outs: int, erasures: int) -> str:
    """Return both counts in words."""
    return f"{_counted(opt_outs, 'opt-out')}, {_counted(erasures, 'deleted contact')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def too_many(found: Withdrawals, percent: int, done: str) -> dict[Kind, str]:
    """Return the kinds that are too many to be plausible, and so are not carried, with a sentence for each.

    `percent`: the highest plausible share of all contacts, 0: any. `done`: the event since which they are counted, such
    as “upgrade”.
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
    """Carry opt-outs and erasures since then (epoch seconds) from `source` into `target`, which is closed.

    Both are on one host. Safe to repeat. Raises LxdError if `target` fails, or if `source` is missing or its host
    unreachable; another failure of `source` is reported in `left`.

    Args:
        percent: as in `too_many`, like `done`.
        final: `source` has just been closed; its visitors' unfinished requests are ended first.
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
    """Add to the result how many erased contacts may still be there: a person has to look before mail goes out."""
    if not (alone := carried.done.left):
        return carried
    who = "1 deleted contact is" if alone == 1 else f"{alone} deleted contacts are"
    why = "as the numbers may be other people's here: look for them in Mautic before you turn mail on"
    return replace(carried, left=(*carried.left, f"{who} not deleted again, {why}"))
