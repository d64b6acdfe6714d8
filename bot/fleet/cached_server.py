"""Caches what a server reports about itself, so that many plans are made from one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bot.lxd.protocol import Lxd

KEPT = frozenset({"instances", "members", "pool", "resources", "server", "states"})
"""The methods without arguments whose results are cached."""


class CachedServer:
    """A caching proxy of a server, for plans that are made together. Methods outside KEPT go to the server itself.

    A cached result is as old as the proxy, which is made for one list of plans and thrown away with it.
    """

    def __init__(self, lxd: Lxd, whole: dict[str, Any] | None = None) -> None:
        self._lxd = lxd
        self._answers: dict[str, Any] = {}
        # The results that are the same for all members of a cluster.
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
        """Return the caching proxy of the server at a member of the cluster; each member has one."""
        if member not in self._members:
            self._members[member] = CachedServer(self._lxd.at(member), self._whole)
        return self._members[member]
