"""Simulates the edge without LXD: a login page loads when the tenant's simulated container runs and has a route."""

from __future__ import annotations

from bot.edge.probe import Probe
from bot.lxd.protocol import Lxd, LxdError
from bot.model.labels import Role, Seen, State, holder, label_of, seen


class SimulatedEdge:
    """Implements the protocol `Edge` of `bot.engine.context` over simulated LXD servers."""

    def __init__(self, *servers: Lxd) -> None:
        self._servers = servers
        self._routes: dict[str, tuple[Lxd, str]] = {}

    def apply(self, *, fresh: bool = False, ahead: str = "") -> None:
        """Read the routes from LXD, a tenant before a candidate; keep the routes to silent servers."""
        answered: list[Lxd] = []
        places: dict[str, list[tuple[Seen, Lxd]]] = {}
        for lxd in self._servers:
            try:
                instances = lxd.instances()
            except LxdError:
                if len(self._servers) == 1:
                    raise
                continue
            answered.append(lxd)
            for one in instances:
                here = seen(one.name, one.config, running=one.running)
                places.setdefault(label_of(one.config, "domain"), []).append((here, lxd))
        kept = {domain: way for domain, way in self._routes.items() if way[0] not in answered}
        routed = {}
        for domain, known in places.items():
            holding = holder(one for one, _ in known)
            if holding and holding.state == State.LIVE and holding.role != Role.ARCHIVED:
                # For a stopped container the edge shows a maintenance page.
                routed[domain] = next((lxd, one.instance) for one, lxd in known if one is holding)
        self._routes = kept | routed

    def probe(self, domain: str, seconds: float = 0) -> Probe:
        """Return whether the login page would load."""
        if domain not in self._routes:
            self.apply()
        if domain not in self._routes:
            return Probe(404, False)
        lxd, name = self._routes[domain]
        return Probe(200, True) if lxd.instance(name).running else Probe(503, False)
