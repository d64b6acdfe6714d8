"""The edge where there is no LXD: a tenant's login page is there when its simulated container runs and is routed."""

from __future__ import annotations

from dataclasses import dataclass

from bot.lxd import Lxd
from bot.tenants import stamp


@dataclass(frozen=True)
class SimulatedProbe:
    """What a look at a tenant found; never a real page."""

    status: int
    login: bool
    error: str = ""
    seconds: float = 0.0


class SimulatedEdge:
    """The edge's door over a simulated LXD."""

    def __init__(self, lxd: Lxd) -> None:
        self.lxd = lxd
        self._routes: dict[str, str] = {}

    def apply(self, *, fresh: bool = False) -> None:
        """Read the routes from what LXD says."""
        self._routes = {
            stamp(instance.config, "domain"): instance.name
            for instance in self.lxd.instances()
            if stamp(instance.config, "role") == "tenant" and stamp(instance.config, "state") == "live"
        }

    def probe(self, domain: str) -> SimulatedProbe:
        """Say whether the page would be there."""
        if domain not in self._routes:
            self.apply()
        if domain not in self._routes:
            return SimulatedProbe(404, False)
        running = self.lxd.instance(self._routes[domain]).running
        return SimulatedProbe(200, True) if running else SimulatedProbe(503, False)
