"""The network: what a tenant whose root is an enemy reaches from inside, and what it can pretend to be."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from bot.edge.edge import NAME, Edge
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import edge_address
from bot.lxd.wire import NIC, given
from bot.model.labels import as_labels
from bot.providers import real_edge
from tests.hostile.network import (
    ADVERTISE,
    LISTEN_FOR,
    MAIL,
    METADATA,
    PRIVATE,
    RELAY,
    SCAN,
    STARVE,
    WEB,
    elsewhere,
    filters_ipv6,
    inside_network,
    open_port,
    own_address,
    reaches,
)
from tests.support.real_lxd import LXD_PLACE, SHARED, TINY, listening, names_at
from tests.support.world import LISTEN, settings_for

OWN, BRIDGE, BRIDGES = "mautic-ops-wire", "mopswire0", "10.76.0.1/24"
"""A separate project: these tests change the bridge, and all other tests share one."""
PAGES, ADMIN = (80, 443), 2019
"""The ports of the edge, and the default port of Caddy's admin interface."""
REACHED = {
    "the edge's pages": True,
    "anything else that the edge listens to": False,
    "LXD's API": False,
    "the host, at the bridge": False,
    "the host, at another address": False,
    "a cloud's metadata": False,
    "private networks": False,
    "other bridges": False,
    "another tenant": False,
    "another tenant, by IPv6": False,
    "names of other clients": False,
    "the bridge's DNS": True,
    "mail outside": True,
    "web outside": True,
}
"""The table in docs/security.md."""
UNTIL_NOW = dict.fromkeys(REACHED, True) | dict.fromkeys(["another tenant", "another tenant, by IPv6"], False)


def eventually(seen: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.05)


def ensure(lxd: LxdGateway, *ways: str) -> None:
    lxd.ensure_project(pool_driver="dir", pool_size="1GiB", subnet=BRIDGES, ways=ways)


def tenant(lxd: LxdGateway, name: str, *, pinned: bool = True) -> str:
    """Start a tenant and return its name; not `pinned`: its address is from LXD's DHCP, as in earlier tenants."""
    config = as_labels(role="tenant", tenant=name, domain=f"{name}.e2e.localhost", state="live")
    lxd.create(name, TINY, config=config, devices={})
    if not pinned:
        lxd.update(name, {}, {NIC: None})
    lxd.start(name)
    eventually(lambda: lxd.state(name).address)
    return name


def reached(lxd: LxdGateway, enemy: str, neighbour: str, other: str) -> dict[str, bool]:
    """Return what the enemy reaches; `other`: the address of a tenant on another bridge."""
    bridge, own, victim = lxd.subnet().partition("/")[0], own_address(), lxd.state(neighbour).address
    with ExitStack() as ports:
        at_bridge, at_own = (f"{one}:{ports.enter_context(open_port(one))}" for one in (bridge, own))
        named = lxd.execute(enemy, ["busybox", "nslookup", victim, bridge]).stdout
        ping = ["ping", "-6", "-c", "1", "-W", "2", f"{link_local(lxd, neighbour)}%eth0"]
        ways = {
            "anything else that the edge listens to": f"{edge_address(BRIDGES)}:{ADMIN}",
            "LXD's API": ports.enter_context(listening(lxd, LXD_PLACE, bridge)).removeprefix("https://"),
            "the host, at the bridge": at_bridge,
            "the host, at another address": at_own,
            "a cloud's metadata": METADATA,
            "private networks": PRIVATE,
            "other bridges": f"{other}:80",
            "another tenant": f"{victim}:80",
            "mail outside": MAIL,
            "web outside": WEB,
        }
        # All at once: what is dropped, rather than rejected, takes seconds to give up.
        pool = ports.enter_context(ThreadPoolExecutor(len(ways)))
        by_way = dict(zip(ways, pool.map(lambda way: reaches(lxd, enemy, way), ways.values()), strict=True))
        return {
            **by_way,
            "the edge's pages": all(reaches(lxd, enemy, f"{edge_address(BRIDGES)}:{port}") for port in PAGES),
            "another tenant, by IPv6": lxd.execute(enemy, ping).code == 0,
            "names of other clients": neighbour in named,
            "the bridge's DNS": "Server:" in named,
        }


def link_local(lxd: LxdGateway, name: str) -> str:
    """Return the IPv6 address that an instance's interface gives itself."""
    mac = bytes.fromhex(lxd.instance(name).config["volatile.eth0.hwaddr"].replace(":", ""))
    words = [(mac[0] ^ 2) << 8 | mac[1], mac[2] << 8 | 0xFF, 0xFE00 | mac[3], mac[4] << 8 | mac[5]]
    return "fe80::" + ":".join(f"{word:x}" for word in words)


@pytest.fixture(scope="module")
def wire(real_lxd: LxdGateway) -> Iterator[LxdGateway]:
    """A bridge with other networks beside it."""
    lxd = LxdGateway(real_lxd.endpoint, project=OWN, pool=OWN, network=BRIDGE, profile=OWN)
    # Left by a killed run.
    lxd.remove_project()
    try:
        ensure(lxd)
        lxd.import_image(str(SHARED / "tiny.tar.gz"), TINY, {})
        with elsewhere():
            stand_at_the_edge(lxd)
            yield lxd
    finally:
        lxd.remove_project()


def stand_at_the_edge(lxd: LxdGateway) -> None:
    """Start an instance at the edge's address that listens on more ports than an edge does."""
    nic = {"type": "nic", "name": NIC, "network": BRIDGE, "ipv4.address": edge_address(BRIDGES)}
    lxd.create("at-the-edge", TINY, config={}, devices={NIC: nic})
    lxd.start("at-the-edge")
    eventually(lambda: lxd.state("at-the-edge").address)
    for port in (443, ADMIN):
        assert lxd.execute("at-the-edge", ["httpd", "-p", str(port), "-h", "/srv/www"]).code == 0


@pytest.fixture(scope="module")
def other(host: LxdGateway, behind: tuple[str, str]) -> str:
    """The address of a tenant on another bridge of this host."""
    return given(host.instance(behind[1]))


@pytest.fixture(scope="module")
def two(wire: LxdGateway) -> tuple[str, str]:
    """An enemy, and its neighbour."""
    return tenant(wire, "enemy"), tenant(wire, "neighbour")


@pytest.fixture(scope="module")
def behind(host: LxdGateway) -> Iterator[tuple[str, str]]:
    """An enemy, and its neighbour, behind the session's edge."""
    with names_at(host) as name:
        yield tenant(host, name()), tenant(host, name())


@pytest.fixture(scope="module")
def edge(host: LxdGateway) -> Edge:
    """The session's edge."""
    settings, _ = settings_for(host.endpoint, SHARED / "host")
    return real_edge(settings, host)


class TestReach:
    def test_a_tenant_reaches_the_outside_and_nothing_internal(
        self, wire: LxdGateway, two: tuple[str, str], other: str
    ) -> None:
        assert reached(wire, *two, other) == REACHED

    def test_a_tenant_reaches_nothing_of_the_edge_but_its_pages(
        self, host: LxdGateway, edge: Edge, behind: tuple[str, str]
    ) -> None:
        """Caddy's admin interface is a unix socket inside, so no rule is needed to keep tenants from it."""
        found, _ = inside_network(host, behind[0], SCAN, edge.address).communicate()
        assert found.split() == ["80", "443"]
        listens = host.execute(NAME, ["sh", "-c", "cat /proc/net/tcp /proc/net/tcp6"]).stdout
        assert {int(port, 16) for port in re.findall(r": [0-9A-F]+:([0-9A-F]{4}) \S+ 0A ", listens)} == {80, 443}

    def test_an_older_bridge_is_closed_while_its_tenants_run(self, wire: LxdGateway, other: str) -> None:
        """The same checks first see everything open, so they can be trusted; and nobody is cut off meanwhile."""
        lxd = wire
        with as_before(lxd):
            enemy, neighbour = (tenant(lxd, name, pinned=False) for name in ("old-enemy", "old-neighbour"))
            addresses = {one: lxd.state(one).address for one in (enemy, neighbour)}
            assert reached(lxd, enemy, neighbour, other) == UNTIL_NOW
            assert not lxd.isolates_tenants()
        assert lxd.isolates_tenants()
        assert {one: lxd.pin(one) for one in addresses} == addresses
        # The name that DHCP learned earlier is known until its lease ends.
        assert {**reached(lxd, enemy, neighbour, other), "names of other clients": False} == REACHED

    def test_one_internal_address_can_be_opened_and_nothing_more(self, wire: LxdGateway, two: tuple[str, str]) -> None:
        enemy, _ = two
        ensure(wire, RELAY)
        assert [reaches(wire, enemy, one) for one in (RELAY, PRIVATE, METADATA)] == [True, False, False]
        ensure(wire)
        assert not reaches(wire, enemy, RELAY)

    def test_a_tenant_cannot_use_up_the_addresses(self, wire: LxdGateway, two: tuple[str, str]) -> None:
        enemy, _ = two
        assert taken_by(wire, enemy, "00:16:3e:00:00") == 0


def taken_by(lxd: LxdGateway, enemy: str, macs: str) -> int:
    """Return how many addresses the enemy gets for machines that do not exist."""
    inside_network(lxd, enemy, STARVE, macs).communicate()
    # LXD itself reports only the leases of its instances.
    return (Path(lxd.endpoint).parent / "networks" / BRIDGE / "dnsmasq.leases").read_text().count(f" {macs}")


@contextmanager
def as_before(lxd: LxdGateway) -> Iterator[None]:
    """Set the bridge, its rules and the profile as earlier bots made them; bring them up to date afterwards."""
    ask, tenants = lxd.connection, "10.76.0.16-10.76.0.254"
    rule = {"action": "reject", "source": tenants, "destination": tenants, "state": "enabled"}
    rules = {"config": {}, "description": "", "ingress": [], "egress": [rule]}
    ask.request("put", f"network-acls/{BRIDGE}", "go back", json=rules, project=False)
    bridge = {"security.acls.default.egress.action": "allow", "dns.mode": "managed", "raw.dnsmasq": ""}
    ask.request("patch", f"networks/{BRIDGE}", "go back", json={"config": bridge}, project=False)
    profile = ask.get(f"profiles/{OWN}", "read")
    nic = {key: value for key, value in profile["devices"][NIC].items() if key != "security.ipv6_filtering"}
    devices = {**profile["devices"], NIC: nic}
    earlier = {"config": profile["config"], "description": profile["description"], "devices": devices}
    ask.request("put", f"profiles/{OWN}", "go back", json=earlier)
    try:
        yield
    finally:
        ensure(lxd)


class TestPretence:
    def test_taking_a_neighbours_address_gains_nothing(
        self, host: LxdGateway, edge: Edge, behind: tuple[str, str]
    ) -> None:
        """When the edge relied on the address inside, the enemy's own domain served the neighbour's files."""
        enemy, neighbour = behind
        victim = given(host.instance(neighbour))
        edge.apply()
        eventually(lambda: page(edge, enemy) == (200, enemy))
        host.execute(enemy, ["sh", "-c", f"ip addr flush dev eth0; ip addr add {victim}/24 dev eth0"])
        try:
            assert host.state(enemy).address == victim
            edge.apply(fresh=True)
            assert page(edge, enemy)[0] in (502, 503)
            assert page(edge, neighbour) == (200, neighbour)
        finally:
            host.restart(enemy)
            eventually(lambda: host.state(enemy).address == given(host.instance(enemy)))
        eventually(lambda: page(edge, enemy) == (200, enemy))

    def test_a_tenant_cannot_be_the_edges_dhcp_server(
        self, host: LxdGateway, edge: Edge, behind: tuple[str, str]
    ) -> None:
        enemy, _ = behind
        offers = "start 10.71.0.200\nend 10.71.0.220\ninterface eth0\noption router 10.71.0.66\noption dns 10.71.0.66\n"
        host.push(enemy, "/etc/udhcpd.conf", offers.encode())
        host.execute(enemy, ["sh", "-c", "mkdir -p /var/lib/misc; : > /var/lib/misc/udhcpd.leases; busybox udhcpd"])
        try:
            assert "udhcpd" in host.execute(enemy, ["ps"]).stdout
            host.execute(NAME, ["systemctl", "restart", "network"])
            told = host.execute(NAME, ["sh", "-c", "ip -4 -o address; ip route; cat /etc/resolv.conf"]).stdout
            assert f" {edge.address}/24 " in told
            bridge = LXD_PLACE.subnet.partition("/")[0]
            assert f"default via {bridge} " in told
            assert f"nameserver {bridge}" in told
            assert "10.71.0.66" not in told
            assert host.execute(NAME, ["sh", "-c", "grep -l udhcpc /proc/[0-9]*/comm"]).code != 0
        finally:
            host.execute(enemy, ["sh", "-c", "kill $(cat /var/run/udhcpd.pid)"])

    def test_a_tenant_cannot_be_a_router(self, host: LxdGateway, edge: Edge, behind: tuple[str, str]) -> None:
        enemy, _ = behind
        heard = inside_network(host, NAME, LISTEN_FOR, "router", "3")
        assert heard.stdout
        assert heard.stdout.readline() == "listening\n"
        inside_network(host, enemy, ADVERTISE).communicate()
        found, _ = heard.communicate()
        told = host.execute(NAME, ["sh", "-c", "ip -6 address show dev eth0; ip -6 route show default"]).stdout
        assert told == ""
        if filters_ipv6():
            assert found == "0\n"


def page(edge: Edge, name: str) -> tuple[int, str]:
    """Return the status and the host name that a tenant's container answers at its domain."""
    domain = f"{name}.e2e.localhost"
    trust = ssl.create_default_context(cadata=edge.authority())
    connection = HTTPConnection(domain, 443, timeout=30)
    connection.sock = trust.wrap_socket(socket.create_connection((LISTEN, 443), 30), server_hostname=domain)
    try:
        connection.request("GET", "/hostname")
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    finally:
        connection.close()
