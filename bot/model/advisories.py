"""Known security holes of Mautic and the end of support of its branches: which of them apply to a version. Pure.

Advisories come from JSON files (the bot ships `bot/fleet/advisories.json`). A file with one invalid entry is rejected
as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum

import msgspec
from packaging.version import Version

from bot.model.releases import newest_first, number
from bot.model.words import tame

WORDS = 200
"""Maximum number of characters of an advisory's description."""


class InvalidAdvisories(Exception):
    """A file of advisories that is rejected; the text says what is wrong, as the end of a sentence."""


class Severity(StrEnum):
    """How severe a hole is, the worst first. `at_least` treats an unrated hole as severe as any other."""

    CRITICAL = "critical"
    UNRATED = "unrated"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """The key to sort by: the worst severity has the lowest rank."""
        return list(Severity).index(self)


class Affected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of versions with a hole: from `introduced` up to, but without, `fixed`; "" where no release fixes it."""

    introduced: str
    fixed: str = ""

    def __post_init__(self) -> None:
        first, end = number(self.introduced), number(self.fixed)
        if first is None or (self.fixed and end is None):
            raise ValueError(f"“{self.introduced[:40]}” to “{self.fixed[:40]}” is no range of versions")
        if end is not None and end <= first:
            raise ValueError(f"{self.fixed} cannot fix what {self.introduced} introduced")

    def has(self, version: str) -> bool:
        """Return whether a version has the hole."""
        here, first, end = number(version), number(self.introduced), number(self.fixed)
        if here is None or first is None:
            return False
        # A pre-release, such as 6.0.0-beta, has the holes of its release.
        return first <= max(here, Version(here.base_version)) and (end is None or here < end)


class Advisory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One known hole. `words`: a short description; `link`: its source; `published`: None where unknown."""

    id: str
    severity: Severity
    affected: tuple[Affected, ...]
    words: str
    link: str
    published: date | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,59}", self.id):
            raise ValueError(f"“{self.id[:40]}” is no id, such as `CVE-2026-3105`")
        if not self.affected:
            raise ValueError(f"{self.id} names no versions")
        if not self.words.strip() or "\n" in self.words or self.words != tame(self.words, WORDS):
            raise ValueError(f"the words of {self.id} are missing, or not one line of at most {WORDS} characters")
        _checked_link(self.link, self.id)

    def has(self, version: str) -> bool:
        """Return whether a version has this hole."""
        return any(one.has(version) for one in self.affected)


class Support(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last day of security fixes of a branch, such as `5.2`; `extended`: the last day for paying customers."""

    branch: str
    until: date
    link: str
    extended: date | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+", self.branch):
            raise ValueError(f"“{self.branch[:40]}” is no branch, such as `5.2`")
        _checked_link(self.link, self.branch)

    def over(self, today: date) -> bool:
        """Return whether free security fixes have ended."""
        return self.until < today


class Advisories(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All known holes, and the end of support of each known branch."""

    advisories: tuple[Advisory, ...]
    support: tuple[Support, ...] = ()

    def __post_init__(self) -> None:
        keys = Counter([one.id for one in self.advisories] + [one.branch for one in self.support])
        if twice := [key for key, count in keys.items() if count > 1]:
            raise ValueError(f"{twice[0]} is in it twice")

    def of(self, version: str) -> tuple[Advisory, ...]:
        """Return the holes of a version, the worst first, then the newest; none for text that is not a version."""
        found = sorted(self.advisories, key=lambda one: one.published or date.min, reverse=True)
        return tuple(sorted((one for one in found if one.has(version)), key=lambda one: one.severity.rank))

    def cure(self, version: str) -> str:
        """Return the nearest newer version without any known hole; "" where there is none, or where none is needed."""
        here = version
        for _ in range(len(self.advisories) + 1):
            ranges = [one for advisory in self.of(here) for one in advisory.affected if one.has(here)]
            if not ranges:
                return here if here != version else ""
            if not all(one.fixed for one in ranges):
                return ""
            here = newest_first(one.fixed for one in ranges)[0]
        return ""

    def support_of(self, version: str) -> Support | None:
        """Return the support of a version's branch; None where it is unknown."""
        return next((one for one in self.support if re.match(rf"{re.escape(one.branch)}\.", version)), None)

    def with_more(self, other: Advisories) -> Advisories:
        """Return these merged with `other`, which wins where both have the same id or branch."""
        ids = {one.id for one in other.advisories}
        branches = {one.branch for one in other.support}
        return Advisories(
            (*(one for one in self.advisories if one.id not in ids), *other.advisories),
            (*(one for one in self.support if one.branch not in branches), *other.support),
        )


def read(data: bytes) -> Advisories:
    """Parse a file of advisories; raises InvalidAdvisories where any entry is invalid."""
    try:
        return msgspec.json.decode(data, type=Advisories)
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidAdvisories(tame(str(error), 300)) from error


def counted(found: Iterable[Advisory]) -> str:
    """Return the number of holes by severity as text, the worst first: `1 critical, 2 high`."""
    count = Counter(one.severity for one in found)
    return ", ".join(f"{count[severity]} {severity}" for severity in Severity if count[severity])


def at_least(found: Sequence[Advisory], least: str) -> tuple[Advisory, ...]:
    """Return the holes that are at least as severe as `least`, or unrated; none where `least` is ""."""
    if not least:
        return ()
    return tuple(one for one in found if one.severity.rank <= Severity(least).rank or one.severity == Severity.UNRATED)


def _checked_link(link: str, of: str) -> None:
    if not re.fullmatch(r"https://[^\s<>|]{4,500}", link):
        raise ValueError(f"the link of {of} is not an address that begins with https://")
