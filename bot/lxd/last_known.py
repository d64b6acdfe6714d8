"""The last known state of instances on a cluster's dead members, whose names alone the cluster reports; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.lxd.protocol import Instance, LxdUnavailable


@dataclass(frozen=True)
class OnlyName:
    """All that a cluster reports of an instance on a member that does not answer: `config` and all else are null."""

    name: str
    status: str
    location: str


class LastKnown:
    """Remembers, by name, the instances of every list that passes through it. Safe for many threads."""

    def __init__(self) -> None:
        self._seen: dict[str, Instance] = {}

    def without_gaps(self, listed: Sequence[Instance | OnlyName], product: str) -> list[Instance]:
        """Return a list in which the instances of a dead member are as they were last seen.

        Nobody can change them meanwhile. Raises LxdUnavailable, in `product`'s name, where an instance was never seen
        here: it may be anything.
        """
        whole = []
        for one in listed:
            if isinstance(one, OnlyName):
                before = self._seen.get(one.name)
                if before is None or before.location != one.location:
                    where = one.location or "the server"
                    raise LxdUnavailable(f"{product} could not list the instances now: {where} does not answer.")
                one = replace(before, status=one.status)
            whole.append(one)
        self._seen |= {one.name: one for one in whole}
        return whole
