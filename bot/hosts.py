"""The doors to a host: its LXD server and its edge, real or simulated, as the settings say."""

from __future__ import annotations

from bot import local_lxd
from bot.edge import Edge
from bot.lxd import Lxd, LxdUnavailable
from bot.lxd_gateway import LxdGateway
from bot.registry import Edge as EdgeDoor
from bot.settings import Settings
from bot.simulated_edge import SimulatedEdge
from bot.simulated_lxd import SimulatedLxd
from bot.tenants import stamps


def endpoint(settings: Settings) -> str:
    """Return where LXD answers: as configured, or as found on this machine."""
    if settings.lxd.endpoint:
        return settings.lxd.endpoint
    found = local_lxd.find(settings.state)
    if found is None:
        raise LxdUnavailable(
            "There is no LXD server here; `make up` starts one where it may, `make up LXD=simulated` does without."
        )
    return found.socket


def gateway(settings: Settings) -> LxdGateway:
    """Return the door to the configured LXD server."""
    lxd = settings.lxd
    return LxdGateway(
        endpoint(settings),
        project=lxd.project,
        pool=lxd.pool,
        network=lxd.network,
        profile=lxd.profile,
        certificate=(lxd.certificate, lxd.key) if lxd.certificate else None,
        server_certificate=lxd.server_certificate or None,
    )


def real_edge(settings: Settings, lxd: Lxd) -> Edge:
    """Return the edge of that LXD server."""
    return Edge(
        lxd,
        base_domain=settings.bot.base_domain,
        tls=settings.edge.tls,
        email=settings.edge.email,
        listen=settings.edge.listen,
        http_port=settings.edge.http_port,
        https_port=settings.edge.https_port,
        network=settings.lxd.network,
        subnet=settings.lxd.subnet,
        cache=settings.state / "cache",
    )


def open_lxd(settings: Settings) -> Lxd:
    """Return the door to the configured LXD server, or to a simulated one that has a blueprint."""
    if not settings.lxd.simulated:
        return gateway(settings)
    lxd = SimulatedLxd(state=settings.state / "simulated-lxd.json")
    if not lxd.instances():
        blueprint = "blueprint--simulated"
        config = stamps(role="blueprint", version="5.2.12+simulated", double=True, created=1)
        lxd.import_image(__file__, "simulated", {})
        lxd.create(blueprint, "simulated", config=config, devices={})
        lxd.snapshot(blueprint, "golden")
    return lxd


def open_edge(settings: Settings, lxd: Lxd) -> EdgeDoor:
    """Return the door to the reverse proxy of that LXD server."""
    return SimulatedEdge(lxd) if settings.lxd.simulated else real_edge(settings, lxd)
