"""The edge where there is no LXD: a tenant's login page is there when its simulated container runs and is routed."""

from __future__ import annotations

from dataclasses import dataclass

from bot.lxd import Lxd, LxdError
from bot.tenants import stamp


@dataclass(frozen=True)
class SimulatedProbe:
    """What a look at a tenant found; never a real page."""

    status: int
    login: bool
    error: str = ""
    seconds: float = 0.0
    valid_from: float = 0.0
    valid_until: float = 0.0


class SimulatedEdge:
    """The edge's door over simulated LXD servers."""

    def __init__(self, *servers: Lxd) -> None:
        self._servers = servers
        self._routes: dict[str, tuple[Lxd, str]] = {}

    def apply(self, *, fresh: bool = False) -> None:
        """Read the routes from what LXD says, a tenant before an heir; those to a server that is silent stay."""
        answered: list[Lxd] = []
        ways: list[tuple[int, str, Lxd, str]] = []
        for lxd in self._servers:
            try:
                instances = lxd.instances()
            except LxdError:
                if len(self._servers) == 1:
                    raise
                continue
            answered.append(lxd)
            for instance in instances:
                role, state = stamp(instance.config, "role"), stamp(instance.config, "state")
                if role in ("tenant", "incoming") and state == "live":
                    right = (1 + (role == "tenant")) * instance.running
                    ways.append((right, stamp(instance.config, "domain"), lxd, instance.name))
        kept = {domain: way for domain, way in self._routes.items() if way[0] not in answered}
        ways.sort(key=lambda way: way[0])
        self._routes = kept | {domain: (lxd, name) for _, domain, lxd, name in ways}

    def probe(self, domain: str) -> SimulatedProbe:
        """Say whether the page would be there."""
        if domain not in self._routes:
            self.apply()
        if domain not in self._routes:
            return SimulatedProbe(404, False)
        lxd, name = self._routes[domain]
        return SimulatedProbe(200, True) if lxd.instance(name).running else SimulatedProbe(503, False)
