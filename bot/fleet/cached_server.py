"""A server that is asked once: what it tells of itself as a whole is kept, however many plans are made from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bot.lxd.protocol import Lxd

KEPT = frozenset({"instances", "members", "pool", "resources", "server", "states"})
"""The questions without an argument whose answers are kept."""


class CachedServer:
    """Stands before a server while many plans are made together; everything else goes to the server itself.

    An answer is as old as this: it is made for one list of plans, and thrown away with it.
    """

    def __init__(self, lxd: Lxd, whole: dict[str, Any] | None = None) -> None:
        self._lxd = lxd
        self._answers: dict[str, Any] = {}
        # What all members of a cluster tell alike.
        self._whole = {} if whole is None else whole
        self._members: dict[str, CachedServer] = {}

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._lxd, name)
        return self._keep(name, asked) if name in KEPT else asked

    def _keep(self, name: str, ask: Callable[[], Any]) -> Callable[[], Any]:
        answers = self._whole if name in ("instances", "members", "server") else self._answers

        def kept() -> Any:
            if name not in answers:
                answers[name] = ask()
            return answers[name]

        return kept

    def at(self, member: str) -> CachedServer:
        """Return the server at a member of the cluster, which keeps what it tells of itself."""
        if member not in self._members:
            self._members[member] = CachedServer(self._lxd.at(member), self._whole)
        return self._members[member]
