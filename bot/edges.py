"""The edges of the fleet, one a host, as one: each routes every domain, by way of another's edge where it has to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bot.edge import Edge, Peer, ProbeResult
from bot.lxd import LxdError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Edges:
    """All edges. `known` returns them by host, the front first: the one that probes ask, and where DNS may point."""

    def __init__(self, known: Callable[[], Mapping[str, Edge]]) -> None:
        self._known = known
        self._authorities: dict[str, str] = {}

    def ensure(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Have every edge there and running, with today's routes; `progress` is told by host."""

        def ensure(host: str, edge: Edge) -> None:
            edge.ensure(lambda text: progress(f"{host}: {text}"))

        _, failed = _each(self._known(), ensure)
        for error in failed.values():
            raise error
        self.apply(fresh=True)

    def apply(self, *, fresh: bool = False) -> None:
        """Make the routes of every edge that can be reached what LXD says; raises LxdError when none can be.

        One that cannot be reached is brought up to date by a later call: `schedules/routes.py` makes one a minute.
        """
        known = self._known()
        if len(known) == 1:
            for edge in known.values():
                edge.apply(fresh=fresh)
            return
        if fresh:
            self._authorities.clear()
        domains, silent = _each(known, lambda host, edge: edge.domains())
        peers, _ = _each({host: known[host] for host in domains}, self._peer)

        def apply(host: str, edge: Edge) -> None:
            elsewhere: dict[str, Peer] = {}
            for other in peers.keys() - {host}:
                for domain, is_open in domains[other].items():
                    # Of two hosts that have a domain (one that moves) the one that is open for it has it.
                    if is_open or domain not in elsewhere | domains[host]:
                        elsewhere[domain] = peers[other]
            edge.apply(fresh=fresh, elsewhere=elsewhere, peers=list(peers.values()), partly=bool(silent))

        applied, failed = _each({host: known[host] for host in domains}, apply)
        for host, error in {**silent, **failed}.items():
            log.warning("the edge of %s is not up to date: %s", host, error)
            if not applied:
                raise error

    def _peer(self, host: str, edge: Edge) -> Peer:
        if not self._authorities.get(host):
            self._authorities[host] = edge.authority()
        return Peer(edge.listen, self._authorities[host])

    def probe(self, domain: str) -> ProbeResult:
        """Ask for a domain's login page through the front edge, once."""
        return next(iter(self._known().values())).probe(domain)


def _each(edges: Mapping[str, Edge], work: Callable[[str, Edge], T]) -> tuple[dict[str, T], dict[str, LxdError]]:
    """Do something with every edge at once; return what came of it, and the errors of the others, by host."""

    def one(host: str) -> T | LxdError:
        try:
            return work(host, edges[host])
        except LxdError as error:
            return error

    with ThreadPoolExecutor(max(1, len(edges))) as threads:
        ended = dict(zip(edges, threads.map(one, edges), strict=True))
    done = {host: result for host, result in ended.items() if not isinstance(result, LxdError)}
    return done, {host: error for host, error in ended.items() if isinstance(error, LxdError)}
