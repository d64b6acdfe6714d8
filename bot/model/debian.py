"""Debian packages: reads lists of packages, and compares versions as dpkg does. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


def packages(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, version) of each package in a list as dpkg and apt keep it: `status` or `Packages`.

    Packages in `status` that are not installed are left out.
    """
    for paragraph in re.split(r"\n\n+", text):
        fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", paragraph, re.MULTILINE))
        if "Package" in fields and "Version" in fields and fields.get("Status", "ok installed").endswith(" installed"):
            yield fields["Package"], fields["Version"]


def lacking(installed: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    """Return the names of the installed packages that are older than their known version, sorted."""
    return sorted(name for name, version in known.items() if name in installed and is_older(installed[name], version))


def is_older(one: str, other: str) -> bool:
    """Return whether a version is older than another, as `dpkg --compare-versions one lt other` does."""
    return _key(one) < _key(other)


def _key(version: str) -> tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]:
    epoch, _, rest = version.rpartition(":")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch) if epoch.isdecimal() else 0, _parts(upstream), _parts(revision)


def _parts(text: str) -> list[tuple[list[int], int]]:
    """Split a version into the parts that are compared from left to right: non-digits by letter, then a number.

    `~` sorts before everything, even the end of the text; letters sort before all other characters.
    """
    found = re.findall(r"(\D*)(\d*)", text)
    return [([*map(_rank, other), 0], int(number or 0)) for other, number in found]


def _rank(letter: str) -> int:
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256
