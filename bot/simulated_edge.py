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
        ways: list[tuple[bool, str, Lxd, str]] = []
        held: set[str] = set()
        for lxd in self._servers:
            try:
                instances = lxd.instances()
            except LxdError:
                if len(self._servers) == 1:
                    raise
                continue
            answered.append(lxd)
            for instance in instances:
                domain, role, state = (stamp(instance.config, fact) for fact in ("domain", "role", "state"))
                if role in ("tenant", "archived") and state != "moving":
                    held.add(domain)
                if role in ("tenant", "incoming") and state == "live":
                    ways.append((role == "tenant", domain, lxd, instance.name))
        kept = {domain: way for domain, way in self._routes.items() if way[0] not in answered}
        routed = {
            domain: (lxd, name)
            for tenant, domain, lxd, name in sorted(ways, key=lambda way: way[0])
            if tenant or domain not in held
        }
        self._routes = kept | routed

    def probe(self, domain: str, seconds: float = 0) -> SimulatedProbe:
        """Say whether the page would be there."""
        if domain not in self._routes:
            self.apply()
        if domain not in self._routes:
            return SimulatedProbe(404, False)
        lxd, name = self._routes[domain]
        return SimulatedProbe(200, True) if lxd.instance(name).running else SimulatedProbe(503, False)
