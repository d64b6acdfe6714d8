"""What the instances of a cluster's dead members last were, as a cluster tells only their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.lxd import LxdUnavailable
from bot.lxd_entries import location

_LASTS = ("config", "devices", "profiles", "location", "created_at", "last_used_at")
"""What an instance still is while its host does not answer."""


class Memory:
    """Every list of the instances that went through here, by name. Safe for many threads."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}

    def without_gaps(self, found: Sequence[Mapping[str, Any]], product: str) -> list[Mapping[str, Any]]:
        """Return a list in which those of a dead member are what they were when it was last seen.

        Nobody changes them meanwhile. Raises LxdUnavailable, in `product`'s name, where nobody here has seen them: they
        may be anything.
        """
        whole = []
        for entry in found:
            if entry["config"] is None:
                before = self._seen.get(entry["name"], {})
                if location(before) != location(entry):
                    where = location(entry) or "the server"
                    raise LxdUnavailable(f"{product} could not list the instances now: {where} does not answer.")
                entry = {**entry, **before}
            whole.append(entry)
        self._seen |= {entry["name"]: {key: entry[key] for key in _LASTS if key in entry} for entry in whole}
        return whole
