"""Releases of Mautic: the order of versions, the requirements of each, and the steps of an upgrade. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from packaging.version import InvalidVersion, Version

Numbers = tuple[int, ...]


class NoRelease(ValueError):
    """Metadata of a release that cannot be used; the text says what is wrong, as the end of a sentence."""


@lru_cache(maxsize=1000)
def _parsed(version: str) -> Version | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None


def number(version: str) -> Version | None:
    """Parse a version to compare it, without the mark of a double (`+double`); None for text that is no version."""
    found = _parsed(version)
    return Version(found.public) if found else None


def variant(version: str) -> str:
    """Return the mark after a version's number: `double`, or "" for a real Mautic."""
    found = _parsed(version)
    return (found.local or "") if found else ""


def newest_first(versions: Iterable[str]) -> list[str]:
    """Return versions sorted by number, the newest first; text that is no version comes last."""
    lowest = Version("0.dev0")
    return sorted(versions, key=lambda one: (number(one) or lowest, one), reverse=True)


@dataclass(frozen=True)
class Base:
    """The PHP and MariaDB of a recipe, each as the first two numbers of its version."""

    php: Numbers
    mariadb: Numbers


@dataclass(frozen=True)
class Release:
    """One release of Mautic, as its `app/release_metadata.json` describes it.

    The recipe that it runs on has versions of its own, which may change while the release stays the same.

    Attributes:
        php: the lowest and the highest version of PHP that the release runs on.
        mariadb: the lowest version of MariaDB, "": it names none.
        mautic: the lowest version that can be upgraded to it, "": it names none.
    """

    version: str
    php: tuple[str, str]
    mariadb: str = ""
    mautic: str = ""

    def runs_on(self, base: Base) -> bool:
        """Return whether the release runs on the PHP and MariaDB of a recipe."""
        return self._has_php(base) and self._has_mariadb(base)

    def problem(self, *bases: Base) -> str:
        """Return why the release runs on none of these recipes, in a sentence; "" where it runs on at least one."""
        if any(self.runs_on(base) for base in bases):
            return ""
        with_php = [base for base in bases if self._has_php(base)]
        if not with_php:
            there = _there([base.php for base in bases])
            return f"Mautic {self.version} runs on PHP {self.php[0]} to {self.php[1]}; {there}."
        there = _there([base.mariadb for base in with_php])
        return f"Mautic {self.version} needs MariaDB {self.mariadb} or newer; {there}."

    def _has_php(self, base: Base) -> bool:
        first, last = (_numbers(edge)[:2] for edge in self.php)
        return first <= base.php <= last

    def _has_mariadb(self, base: Base) -> bool:
        return not self.mariadb or _numbers(self.mariadb)[:2] <= base.mariadb

    def takes(self, version: str) -> bool:
        """Return whether its metadata allows an upgrade from a version to this release in one step."""
        here, there, first = number(version), number(self.version), number(self.mautic)
        if here is None or there is None or variant(version) != variant(self.version):
            return False
        return here < there and (first is None or first <= here)

    @property
    def php_range(self) -> str:
        """The versions of PHP that the release runs on, in short: `8.1-8.3`."""
        first, last = (_dotted(_numbers(edge)[:2]) for edge in self.php)
        return first if first == last else f"{first}-{last}"


def release(metadata: Mapping[str, Any]) -> Release:
    """Parse metadata to a release; raises NoRelease where the requirements are missing, or the version is invalid."""
    try:
        version = str(metadata["version"])
        php = tuple(_checked(metadata[f"{edge}_php_version"]) for edge in ("minimum", "maximum"))
        mariadb = _checked(metadata["minimum_mariadb_version"]) if "minimum_mariadb_version" in metadata else ""
        least = str(metadata.get("minimum_mautic_version") or "")
    except (KeyError, TypeError, ValueError) as error:
        raise NoRelease(f"does not say what it runs on ({error})") from error
    if number(version) is None or not re.fullmatch(r"\d+\.\d+\.\d+[0-9A-Za-z.+-]*", version):
        raise NoRelease(f"says that it is version “{version[:40]}”, which is no version")
    if least and number(least) is None:
        raise NoRelease(f"names “{least[:40]}” as the version to upgrade from, which is no version")
    return Release(version, (php[0], php[1]), mariadb, least)


class Why(StrEnum):
    """Why there is no upgrade path from one version to another."""

    UNKNOWN = "unknown"
    """There is no such release, or the version cannot be compared."""
    SAME = "same"
    OLDER = "older"
    """The wanted version is older, and Mautic's migrations only go forward."""
    OTHER = "other"
    """A double cannot become a real Mautic, or the other way round."""
    BASE = "base"
    """The release does not run on the PHP or MariaDB of any recipe."""
    NO_WAY = "no way"
    """The known releases leave a gap."""


@dataclass(frozen=True)
class Path:
    """The releases of an upgrade in order, the wanted one last; or why there is no path, with a sentence."""

    steps: tuple[Release, ...] = ()
    why: Why | None = None
    words: str = ""

    @property
    def direct(self) -> bool:
        """Whether the path has exactly one step."""
        return len(self.steps) == 1


def find(releases: Iterable[Release], version: str) -> Release | None:
    """Return the release of a version: the same text, or else the same number, such as `5.2.12` for a double."""
    known = list(releases)
    same = [one for one in known if one.version == version]
    wanted = number(version)
    return next(iter(same or [one for one in known if wanted and number(one.version) == wanted]), None)


def path(current: str, wanted: str, releases: Sequence[Release], *bases: Base) -> Path:
    """Return the shortest upgrade path from one version to another, or why there is none.

    Args:
        releases: the known releases; each step is one of them.
        bases: PHP and MariaDB of the recipes; a release that runs on none of them cannot be a step.
    """
    target, here = find(releases, wanted), number(current)
    if target is None:
        known = ", ".join(f"`{one}`" for one in newest_first(one.version for one in releases)) or "none"
        return Path(why=Why.UNKNOWN, words=f"There is no release {wanted[:40]} in the settings; known: {known}.")
    if here is None:
        return Path(why=Why.UNKNOWN, words=f"“{current[:40]}” is no version that can be compared with others.")
    there = number(target.version)
    if there is None or there == here:
        return Path(why=Why.SAME, words=f"It runs Mautic {current} already.")
    if there < here:
        words = f"Mautic {target.version} is older than {current}, and Mautic can't be downgraded."
        return Path(why=Why.OLDER, words=words)
    if variant(target.version) != variant(current):
        return Path(
            why=Why.OTHER,
            words=f"Mautic {current} can't become {target.version}: one of them is a demo stand-in, not the real one.",
        )
    if problem := target.problem(*bases):
        return Path(why=Why.BASE, words=problem)
    steps = _steps(current, target, [one for one in releases if not one.problem(*bases)])
    if steps:
        return Path(steps)
    return Path(
        why=Why.NO_WAY,
        words=f"Mautic {target.version} can be reached from {target.mautic} or newer only, and no release in the "
        f"settings leads there from {current}. Add one between.",
    )


def _steps(current: str, target: Release, releases: Sequence[Release]) -> tuple[Release, ...]:
    """Return the fewest steps to a release, through newer releases where several are as short; none without a path."""
    by_version = {one.version: one for one in releases}
    candidates = [by_version[version] for version in newest_first(by_version)]
    ways: list[tuple[Release, ...]] = [()]
    reached = {current}
    while ways:
        further = []
        for way in ways:
            here = way[-1].version if way else current
            if target.takes(here):
                return (*way, target)
            for one in candidates:
                if one.version not in reached and one.takes(here) and _before(one, target):
                    reached.add(one.version)
                    further.append((*way, one))
        ways = further
    return ()


def _before(one: Release, other: Release) -> bool:
    mine, its = number(one.version), number(other.version)
    return mine is not None and its is not None and mine < its


def _checked(version: object) -> str:
    _numbers(str(version))
    return str(version)


def _numbers(version: str) -> Numbers:
    return tuple(int(part) for part in version.split("."))


def _there(versions: Sequence[Numbers]) -> str:
    found = " or ".join(map(_dotted, versions))
    return f"the blueprint has {found}" if len(versions) == 1 else f"blueprints have {found}"


def _dotted(version: Numbers) -> str:
    return ".".join(map(str, version))
