"""Opens the LXD servers and the edges of their hosts, real or simulated, as the settings say."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from bot.edge.edge import Edge
from bot.edge.edges import ANSWER, Edges, each
from bot.edge.simulated import SimulatedEdge
from bot.engine.context import Edge as EdgeProtocol
from bot.guest.blueprint.simulated import put_blueprint
from bot.guest.simulated import close_candidate, run_mautic_ctl
from bot.lxd.gateway import LxdGateway
from bot.lxd.local import server as local_lxd
from bot.lxd.protocol import Lxd, LxdUnavailable, Member
from bot.lxd.simulated.lxd import SimulatedLxd
from bot.settings import ServerSettings, Settings


def endpoint(settings: Settings) -> str:
    """Return the address of the LXD server of `[lxd]`: as configured, or as found on this machine.

    Raises LxdUnavailable where none is configured and none runs here.
    """
    if settings.lxd.endpoint:
        return settings.lxd.endpoint
    found = local_lxd.find(settings.state)
    if found is None:
        raise LxdUnavailable(
            "Neither LXD nor Incus runs here; `make up` starts one where it may, `make up LXD=simulated` needs none."
        )
    return found.socket


def gateway(settings: Settings) -> LxdGateway:
    """Return the gateway to the LXD server of `[lxd]`."""
    lxd = settings.lxd
    first = ServerSettings(
        endpoint(settings), certificate=lxd.certificate, key=lxd.key, server_certificate=lxd.server_certificate
    )
    return _gateway(settings, first)


def _gateway(settings: Settings, server: ServerSettings) -> LxdGateway:
    lxd = settings.lxd
    return LxdGateway(
        server.endpoint,
        project=lxd.project,
        pool=lxd.pool,
        network=lxd.network,
        profile=lxd.profile,
        certificate=(server.certificate, server.key) if server.certificate else None,
        server_certificate=server.server_certificate or None,
    )


def gateways(settings: Settings) -> dict[str, LxdGateway]:
    """Return the gateways to all configured LXD servers by name, that of `[lxd]` first."""
    return {settings.lxd.name: gateway(settings), **more_gateways(settings)}


def more_gateways(settings: Settings) -> dict[str, LxdGateway]:
    """Return the gateways to the LXD servers other than that of `[lxd]`, by name."""
    return {name: _gateway(settings, server) for name, server in settings.servers.items()}


def open_servers(settings: Settings) -> Mapping[str, Lxd]:
    """Return all configured LXD servers by name, or a simulated one that has a blueprint."""
    if not settings.lxd.simulated:
        return gateways(settings)
    lxd = SimulatedLxd(state=settings.state / "simulated-lxd.json", speak=run_mautic_ctl, lay=close_candidate)
    if not lxd.instances():
        put_blueprint(lxd, "5.2.12+simulated", created=1, name="blueprint--simulated")
    return {settings.lxd.name: lxd}


def open_edge(settings: Settings, servers: Mapping[str, Lxd]) -> EdgeProtocol:
    """Return the reverse proxies of these LXD servers as one edge."""
    return SimulatedEdge(*servers.values()) if settings.lxd.simulated else real_edges(settings, servers)


def real_edges(settings: Settings, servers: Mapping[str, Lxd]) -> Edges:
    """Return the edges of all hosts of real LXD servers; the front is the one that `edge.listen` names."""
    made: dict[tuple[str, str], Edge] = {}
    members: dict[str, list[Member]] = {}

    def known() -> dict[str, Edge]:
        found: dict[str, Edge] = {}
        # A server that does not answer keeps the members that it had.
        told, _ = each(servers, lambda _, lxd: lxd.members(), within=ANSWER)
        members.update(told)
        for server, lxd in servers.items():
            # A member's edge listens on the member's own address.
            places = {member.name: urlsplit(member.address).hostname or "" for member in members.get(server, ())}
            for member, listen in (places or {"": _listen(settings, server)}).items():
                if (server, member) not in made or made[server, member].listen != listen:
                    made[server, member] = real_edge(settings, lxd, member, listen)
                found[member or server] = made[server, member]
        return dict(sorted(found.items(), key=lambda one: one[1].listen != settings.edge.listen))

    return Edges(known)


def _listen(settings: Settings, server: str) -> str:
    return settings.edge.listen if server == settings.lxd.name else settings.servers[server].listen


def real_edge(settings: Settings, lxd: Lxd, member: str = "", listen: str = "") -> Edge:
    """Return the edge of one host; `listen`: its address, "" for that of the front."""
    return Edge(
        lxd.at(member) if member else lxd,
        base_domain=settings.bot.base_domain,
        # Only the front, where DNS points, can get public certificates; it forwards to the other edges.
        tls=settings.edge.tls if listen in ("", settings.edge.listen) else "internal",
        email=settings.edge.email,
        listen=listen or settings.edge.listen,
        http_port=settings.edge.http_port,
        https_port=settings.edge.https_port,
        network=settings.lxd.network,
        subnet=settings.lxd.subnet,
        cache=settings.state / "cache",
        member=member,
        # A single edge has no other edge to share the secret with.
        hop=_hop(settings.state) if settings.servers or member else "",
    )


def _hop(state: Path) -> str:
    """Return the secret by which the fleet's edges recognise each other.

    It is made once, as a new one would reload all edges. Only the edges know it, and those who can read the state.
    """
    file = state / "hop.key"
    if not file.exists():
        state.mkdir(0o700, parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix="hop.", suffix=".part", dir=state)
        with os.fdopen(descriptor, "w") as whole:
            whole.write(secrets.token_urlsafe(32))
        # The link appears with complete content or not at all. Where the bot and `make up` race, the first one wins.
        with suppress(FileExistsError):
            os.link(part, file)
        Path(part).unlink()
    return file.read_text()
