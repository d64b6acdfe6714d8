"""Runs the edges of all hosts as one: each routes every domain, through another host's edge where necessary."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from bot.edge.caddy import Peer
from bot.edge.edge import Edge
from bot.edge.probe import PAGE_SECONDS, Probe
from bot.lxd.protocol import Instance, LxdError, LxdUnavailable

S = TypeVar("S")
T = TypeVar("T")
log = logging.getLogger(__name__)
ANSWER = 5.0
"""Seconds that a host may take to answer with its domains; the others do not wait longer for it."""


class Edges:
    """All edges. `known` returns them by host. The first is the front, which probes ask and DNS may point to."""

    def __init__(self, known: Callable[[], Mapping[str, Edge]]) -> None:
        self._known = known
        self._front: Edge | None = None
        self._authorities: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def ensure(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Create or update every edge, so that it runs with the current routes; report each host to `progress`.

        Raises LxdError when the front fails. Failures of other edges, which can be out of reach, go to `progress`.
        """

        def ensure(host: str, edge: Edge) -> None:
            edge.ensure(lambda text: progress(f"{host}: {text}"))

        known = self._known()
        _, failed = each(known, ensure)
        for host, error in failed.items():
            if host == next(iter(known)):
                raise error
            progress(f"{host}: {error}")
        self.apply(fresh=True)

    def apply(self, *, fresh: bool = False, ahead: str = "") -> None:
        """Bring the routes of every reachable edge in line with LXD; raise LxdError when no edge is reachable.

        A later call updates the others: `schedules/routes.py` makes one a minute. `ahead`: as in `Edge.apply`; then
        only the front and the edge of the instance's own host are updated, and the others follow with the next call.
        """
        known = self._known()
        self._front = next(iter(known.values()))
        if len(known) == 1:
            for edge in known.values():
                edge.apply(fresh=fresh, ahead=ahead)
            return
        # A later call reads newer facts, and may still finish before an earlier one.
        number = next(self._numbers)
        # The hosts of a cluster share a server, which is asked only once.
        servers = {edge.server: host for host, edge in known.items()}
        asked = {host: server for server, host in servers.items()}
        listed, unlisted = each(asked, lambda _, server: server.instances(), within=ANSWER)

        def instances(edge: Edge) -> list[Instance]:
            asked_by = servers[edge.server]
            if asked_by in unlisted:
                raise unlisted[asked_by]
            return listed[asked_by]

        domains, silent = each(known, lambda _, edge: edge.domains(instances(edge), ahead))
        answered = {host: known[host] for host in domains}
        _, unsure = each(answered, lambda host, edge: self._learn(host, edge, fresh=fresh), within=ANSWER)
        peers = {
            host: Peer(edge.listen, self._authorities[host])
            for host, edge in answered.items()
            if host in self._authorities
        }
        silent |= unsure
        best: dict[str, tuple[int, str]] = {}
        for host in peers:
            for domain, right in domains[host].items():
                best[domain] = max(best.get(domain, (right, host)), (right, host))

        def apply(host: str, edge: Edge) -> None:
            own = domains[host]
            elsewhere = {domain: peers[other] for domain, (right, other) in best.items() if right > own.get(domain, -1)}
            edge.apply(
                fresh=fresh,
                elsewhere=elsewhere,
                partly=bool(silent),
                number=number,
                ahead=ahead,
                instances=instances(edge),
            )

        # Ahead of a switch only the path that visitors take counts. Loading an edge takes a sixth of a second of a
        # core, which the candidate's start needs more.
        now = {
            host: edge
            for host, edge in answered.items()
            if not ahead or edge is self._front or edge.has(ahead, instances(edge))
        }
        applied, failed = each(now, apply)
        for host, error in {**silent, **failed}.items():
            log.warning("the edge of %s is not up to date: %s", host, error)
            if not applied:
                raise error

    def _learn(self, host: str, edge: Edge, *, fresh: bool) -> None:
        """Read the authority of a host's edge where it is unknown, or where `fresh`; on failure keep the known one."""
        if fresh or not self._authorities.get(host):
            self._authorities[host] = edge.authority()

    def probe(self, domain: str, seconds: float = PAGE_SECONDS) -> Probe:
        """Request a domain's login page through the front edge, once, within `seconds`."""
        # The last known front: a probe must not wait for a silent server.
        front = self._front or next(iter(self._known().values()))
        return front.probe(domain, seconds)


def each(
    hosts: Mapping[str, S], work: Callable[[str, S], T], *, within: float | None = None
) -> tuple[dict[str, T], dict[str, LxdError]]:
    """Do something with every host in parallel; return the results, and the errors of the other hosts, by host.

    `within`: seconds after which a host counts as unreachable, and its late answer is ignored; None: no limit.
    """
    threads = ThreadPoolExecutor(max(1, len(hosts)), "edges")
    asked = {host: threads.submit(work, host, given) for host, given in hosts.items()}
    threads.shutdown(wait=False)
    wait(asked.values(), within)
    done: dict[str, T] = {}
    failed: dict[str, LxdError] = {}
    for host, answer in asked.items():
        try:
            done[host] = answer.result(0)
        except LxdError as error:
            failed[host] = error
        except TimeoutError:
            failed[host] = LxdUnavailable(f"The server of {host} did not answer within {within:.0f} seconds.")
    return done, failed
