"""What the instances of a cluster's dead members last were, as a cluster tells only their names; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.lxd.protocol import Instance, LxdUnavailable


@dataclass(frozen=True)
class OnlyName:
    """All that a cluster tells of an instance on a member that does not answer: `config` and all else are null."""

    name: str
    status: str
    location: str


class LastKnown:
    """Every list of the instances that went through here, by name. Safe for many threads."""

    def __init__(self) -> None:
        self._seen: dict[str, Instance] = {}

    def without_gaps(self, listed: Sequence[Instance | OnlyName], product: str) -> list[Instance]:
        """Return a list in which those of a dead member are what they were when it was last seen.

        Nobody changes them meanwhile. Raises LxdUnavailable, in `product`'s name, where nobody here has seen them: they
        may be anything.
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
