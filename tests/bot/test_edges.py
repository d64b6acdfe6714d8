"""Which host's container gets a domain's traffic: the routes of all edges, on simulated LXD servers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.edge.caddy import routes
from bot.edge.edge import Edge
from bot.edge.edges import Edges
from bot.edge.simulated import SimulatedEdge
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.lxd.wire import NIC, given
from bot.model.labels import as_labels
from bot.providers import real_edges
from bot.settings import ServerSettings
from tests.support.bot import settings_in
from tests.support.simulated_lxd import SimulatedLxd

DOMAIN = "client-x.agency.com"
CONFIG = "/etc/caddy/edge.json"
ROOT = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"


CLOSED = [("tenant", "suspended", True), ("tenant", "live", False), ("archived", "", False), ("archived", "live", True)]


def caddy(lxd: SimulatedLxd, name: str, _command: list[str], sent: bytes) -> Iterator[bytes]:
    """Accept every configuration."""
    lxd.push(name, CONFIG, sent.partition(b"\n")[2])
    yield b"loaded"


class World:
    """Some hosts, each with its edge."""

    def __init__(self, *names: str) -> None:
        self.lxd = {name: SimulatedLxd(speak=caddy) for name in names}
        self.made = {
            name: self._edge(lxd, f"192.0.2.{number}") for number, (name, lxd) in enumerate(self.lxd.items(), 1)
        }
        self.edges = Edges(lambda: self.made)

    def _edge(self, lxd: SimulatedLxd, listen: str) -> Edge:
        lxd.import_image(__file__, "base", {})
        lxd.create("edge", "base", config=as_labels(role="edge"), devices={})
        lxd.start("edge")
        lxd.push("edge", CONFIG, json.dumps(routes({}, base_domain="agency.com", tls="internal")).encode())
        lxd.push("edge", ROOT, b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
        return Edge(
            lxd,
            base_domain="agency.com",
            tls="internal",
            email="",
            listen=listen,
            http_port=80,
            https_port=443,
            network="bridge",
            subnet="10.70.0.1/24",
            cache=Path("unused"),
            hop="secret",
        )

    def add(self, host: str, name: str, role: str, state: str = "live") -> None:
        """Add a running container that has the domain."""
        lxd = self.lxd[host]
        lxd.create(name, "base", config=as_labels(role=role, domain=DOMAIN, state=state), devices={})
        lxd.start(name)

    def at(self, host: str, name: str) -> str:
        """Return the upstream of a container at the edge of its own host."""
        return f"{given(self.lxd[host].instance(name))}:80"

    def by(self, host: str) -> str:
        """Return the upstream of a host's containers at the edges of other hosts."""
        return f"{self.made[host].listen}:443"

    def way(self, host: str) -> str:
        """Return the upstream that a host's edge uses for the domain, or the status with which it answers itself."""
        config = json.loads(self.lxd[host].pull("edge", CONFIG))
        for route in config["apps"]["http"]["servers"]["secure"]["routes"]:
            if route["handle"][-1]["handler"] == "map":
                continue
            if "match" not in route or DOMAIN in route["match"][0]["host"]:
                handler = route["handle"][-1]
                return str(handler["upstreams"][0]["dial"] if "upstreams" in handler else handler["status_code"])
        raise AssertionError(config)


def test_an_open_candidate_gets_the_traffic_of_the_tenant_that_was_closed_for_it() -> None:
    world = World("front", "old", "new")
    world.add("old", "client-x", "tenant", "moving")
    world.add("new", "client-x--2", "incoming")
    world.edges.apply(fresh=True)
    assert [world.way(host) for host in world.made] == [
        world.by("new"),
        world.by("new"),
        world.at("new", "client-x--2"),
    ]


def test_a_live_tenant_takes_precedence_over_a_candidate_left_open_elsewhere() -> None:
    world = World("front", "old", "new")
    world.add("old", "client-x", "tenant")
    world.add("new", "client-x--2", "incoming")
    world.edges.apply(fresh=True)
    assert [world.way(host) for host in world.made] == [world.by("old"), world.at("old", "client-x"), world.by("old")]


def test_a_live_tenant_takes_precedence_over_a_candidate_left_open_beside_it() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant")
    world.add("only", "client-x--2", "incoming")
    world.edges.apply()
    assert world.way("only") == world.at("only", "client-x")


@pytest.mark.parametrize(("role", "state", "runs"), CLOSED)
def test_a_candidate_left_open_gets_no_traffic_while_the_tenant_is_closed(role: str, state: str, runs: bool) -> None:
    for names in (("front", "old", "new"), ("old",)):
        world = World(*names)
        candidate = names[-1]
        world.add("old", "client-x", role, state)
        world.add(candidate, "client-x--2", "incoming")
        if not runs:
            world.lxd["old"].stop("client-x")
        world.edges.apply(fresh=True)
        assert [world.way(host) for host in world.made] == [world.by("old") if it != "old" else "503" for it in names]
        edge = SimulatedEdge(*world.lxd.values())
        edge.apply()
        assert not edge.probe(DOMAIN).login


def test_each_server_is_asked_once_however_many_edges_it_has() -> None:
    """With a hundred tenants each request takes some tenths of a second, while clients wait."""
    world = World("cluster", "alone")
    world.add("cluster", "client-x", "tenant")
    world.made["cluster-2"] = world.made["cluster"]
    asked: list[str] = []
    for name, lxd in world.lxd.items():
        lxd.on_call = lambda method, _, name=name: asked.append(name) if method == "instances" else None  # type: ignore[misc]
    world.edges.apply()
    assert sorted(asked) == ["alone", "cluster"]


def test_an_address_that_a_tenant_claims_is_ignored() -> None:
    """Otherwise a tenant that takes its neighbour's address inside would show the neighbour's pages at its domain."""
    world = World("only")
    world.add("only", "neighbour", "former")
    world.add("only", "evil", "tenant")
    world.lxd["only"].claim("evil", given(world.lxd["only"].instance("neighbour")))
    world.edges.apply(fresh=True)
    assert world.way("only") == world.at("only", "evil")


@pytest.mark.parametrize("address", ["10.70.0.1", "10.70.0.2", "169.254.169.254", "203.0.113.9"])
def test_an_address_that_no_tenant_can_have_is_never_routed_to(address: str) -> None:
    world = World("only")
    world.add("only", "evil", "tenant")
    world.lxd["only"].update("evil", {}, {NIC: {"type": "nic", "ipv4.address": address}})
    world.edges.apply(fresh=True)
    assert world.way("only") == "503"


def test_neither_of_two_tenants_with_the_same_address_is_routed_to() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant")
    world.add("only", "client-y", "tenant")
    world.lxd["only"].update("client-y", {}, {NIC: world.lxd["only"].instance("client-x").devices[NIC]})
    world.edges.apply(fresh=True)
    assert world.way("only") == "503"


def test_a_tenant_without_an_assigned_address_keeps_the_one_it_uses() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant")
    before = world.at("only", "client-x")
    world.lxd["only"].unpin("client-x")
    world.edges.apply()
    assert (world.way("only"), world.at("only", "client-x")) == (before, before)


def test_routes_need_only_the_list_of_instances() -> None:
    """However many tenants there are, and whatever was known before."""
    world = World("only")
    for number in range(20):
        world.add("only", f"client-{number}", "tenant")
    for fresh in (True, False, True):
        before = world.lxd["only"].calls.copy()
        world.edges.apply(fresh=fresh)
        made = world.lxd["only"].calls - before
        assert (made["state"], made["states"], made["pin"]) == (0, 0, 0)


def test_a_new_tenant_is_routed_to_ahead_until_the_next_update_of_the_routes() -> None:
    for names in (("front", "other"), ("other",)):
        world = World(*names)
        world.add("other", "client-x", "tenant", "new")
        world.edges.apply(ahead="client-x")
        assert world.way("other") == world.at("other", "client-x")
        assert world.way(names[0]) == (world.by("other") if len(names) > 1 else world.at("other", "client-x"))
        world.edges.apply()
        assert world.way("other") == "503"


@pytest.mark.parametrize("state", ["suspended", "moving", "archived"])
def test_only_a_new_tenant_is_routed_to_ahead(state: str) -> None:
    world = World("only")
    world.add("only", "client-x", "tenant", state)
    world.edges.apply(ahead="client-x")
    assert world.way("only") == "503"


def test_a_new_tenant_is_not_routed_to_ahead_if_its_domain_belongs_to_another() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant")
    world.add("only", "client-y", "tenant", "new")
    world.edges.apply(ahead="client-y")
    assert world.way("only") == world.at("only", "client-x")


def test_a_candidate_is_routed_to_ahead_only_while_its_tenant_is_closed_for_it() -> None:
    for state, routed in (("moving", True), ("live", False), ("suspended", False)):
        world = World("front", "only")
        world.add("only", "client-x", "tenant", state)
        world.add("only", "client-x--2", "incoming", "moving")
        before = world.at("only", "client-x") if state == "live" else "503"
        world.edges.apply(ahead="client-x--2")
        assert world.way("only") == (world.at("only", "client-x--2") if routed else before)
        assert world.way("front") == world.by("only")
        world.edges.apply()
        assert world.way("only") == before


def test_only_the_front_and_its_own_edge_route_ahead_to_a_candidate_on_another_host() -> None:
    world = World("front", "old", "new")
    world.add("old", "client-x", "tenant", "moving")
    world.add("new", "client-x--2", "incoming", "moving")
    world.edges.apply(ahead="client-x--2")
    assert world.way("new") == world.at("new", "client-x--2")
    assert (world.way("front"), world.way("old")) == (world.by("new"), "404"), (
        "updating each edge costs its host some time"
    )
    world.edges.apply()
    assert world.way("old") == "503", "the routes follow the labels again"
    assert world.way("front") == world.by("old")


def test_routes_that_were_loaded_ahead_are_not_loaded_again() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant", "new")
    world.edges.apply(ahead="client-x")
    world.lxd["only"].update("client-x", as_labels(state="live"))
    before = world.lxd["only"].calls["execute"]
    world.edges.apply()
    assert world.lxd["only"].calls["execute"] == before
    assert world.way("only") == world.at("only", "client-x")


def test_routes_that_somebody_else_changed_are_corrected() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant")
    world.edges.apply()
    world.lxd["only"].push("edge", CONFIG, json.dumps(routes({}, base_domain="agency.com", tls="internal")).encode())
    world.edges.apply()
    assert world.way("only") == world.at("only", "client-x")


def test_after_a_failed_load_even_unchanged_routes_are_loaded_again() -> None:
    world = World("only")
    world.add("only", "client-x", "tenant", "moving")
    world.add("only", "client-x--2", "incoming", "moving")
    world.edges.apply()
    lxd, sent = world.lxd["only"], []

    def took_it_and_went(_lxd: SimulatedLxd, _name: str, _command: list[str], config: bytes) -> Iterator[bytes]:
        sent.append(config)
        yield b""

    lxd.speak = took_it_and_went
    with pytest.raises(LxdError):
        world.edges.apply(ahead="client-x--2")
    with pytest.raises(LxdError):
        world.edges.apply()
    assert len(sent) == 2


def test_the_simulated_edge_prefers_the_live_tenant_too() -> None:
    world = World("old", "new")
    world.add("old", "client-x", "tenant")
    world.add("new", "client-x--2", "incoming")
    edge = SimulatedEdge(*world.lxd.values())
    edge.apply()
    world.lxd["new"].stop("client-x--2")
    assert edge.probe(DOMAIN).login


def test_a_host_whose_certificate_authority_cannot_be_read_again_is_still_routed_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World("front", "other")
    world.add("other", "client-x", "tenant")
    world.edges.apply(fresh=True)
    world.lxd["other"].fail_next("pull", LxdUnavailable("LXD at other did not answer in time."))
    world.edges.apply(fresh=True)
    assert world.way("front") == world.by("other")
    assert "the edge of other is not up to date: LXD at other did not answer in time." in caplog.text


def test_a_host_whose_certificate_authority_is_unknown_keeps_the_routes_of_an_earlier_bot() -> None:
    world = World("front", "other")
    world.add("other", "client-x", "tenant")
    world.edges.apply(fresh=True)
    world.lxd["other"].fail_next("pull", LxdUnavailable("LXD at other did not answer in time."))
    Edges(lambda: world.made).apply(fresh=True)
    assert world.way("front") == world.by("other")


def test_routes_from_an_older_list_do_not_replace_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("front", "old", "new")
    world.add("old", "client-x", "tenant", "moving")
    world.add("new", "client-x--2", "incoming", "moving")
    looked, go_on = threading.Event(), threading.Event()
    real = world.made["front"].apply

    def slow(**arguments: Any) -> None:
        if not looked.is_set():
            looked.set()
            assert go_on.wait(10)
        real(**arguments)

    monkeypatch.setattr(world.made["front"], "apply", slow)
    job = threading.Thread(target=world.edges.apply, kwargs={"fresh": True})
    job.start()
    assert looked.wait(10)
    world.lxd["new"].update("client-x--2", as_labels(state="live"))
    world.edges.apply()
    go_on.set()
    job.join()
    assert world.way("front") == world.by("new")


@pytest.mark.parametrize("away", ["front", "other"])
def test_an_edge_that_cannot_be_made_is_reported_and_only_the_front_is_an_error(
    monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    world = World("front", "other")

    def ensure(host: str) -> None:
        if host == away:
            raise LxdUnavailable("LXD does not answer.")

    for host, edge in world.made.items():
        monkeypatch.setattr(edge, "ensure", lambda _, host=host: ensure(host))
    told: list[str] = []
    if away == "front":
        with pytest.raises(LxdUnavailable):
            world.edges.ensure(told.append)
    else:
        world.edges.ensure(told.append)
        assert told == ["other: LXD does not answer."]


def test_a_probe_asks_only_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("front", "other")
    world.edges.apply(fresh=True)
    monkeypatch.setattr(world.made["front"], "probe", lambda domain, _: f"the page of {domain}")
    monkeypatch.setattr(world.edges, "_known", lambda: pytest.fail("it would wait for a server that is silent"))
    assert world.edges.probe(DOMAIN) == f"the page of {DOMAIN}"  # type: ignore[comparison-overlap]


def test_the_edges_of_a_fleet_share_a_secret_that_survives_a_restart(tmp_path: Path) -> None:
    """A new secret at each start would reload all edges."""
    settings = replace(settings_in(tmp_path), servers={"far": ServerSettings("https://192.0.2.1:8443")})

    def told() -> list[str]:
        servers = {"local": SimulatedLxd(), "far": SimulatedLxd(members=("node1", "node2"))}
        return [edge._hop for edge in real_edges(settings, servers)._known().values()]

    first, again = told(), told()
    key = tmp_path / "hop.key"
    assert first == again == [key.read_text()] * 3
    assert (len(first[0]) >= 32, key.stat().st_mode & 0o777) == (True, 0o600)
    assert list(tmp_path.glob("hop.*")) == [key]


def test_two_processes_that_create_the_secret_at_once_share_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bot and `make up` may run at the same time."""
    link = os.link

    def late(part: str, file: Path) -> None:
        file.write_text("of the other")
        link(part, file)

    monkeypatch.setattr(os, "link", late)
    settings = replace(settings_in(tmp_path), servers={"far": ServerSettings("https://192.0.2.1:8443")})
    edges = real_edges(settings, {"local": SimulatedLxd()})
    assert [edge._hop for edge in edges._known().values()] == ["of the other"]


def test_a_single_edge_has_no_secret(tmp_path: Path) -> None:
    edges = real_edges(settings_in(tmp_path), {"local": SimulatedLxd()})
    assert [edge._hop for edge in edges._known().values()] == [""]
    assert not (tmp_path / "hop.key").exists()


@pytest.mark.parametrize("late", ["front", "other"])
def test_an_edge_without_the_secret_still_routes_and_is_given_it_once(late: str) -> None:
    world = World("front", "other")
    world.add("other", "client-x", "tenant")
    ways = [world.by("other"), world.at("other", "client-x")]

    def told() -> dict[str, bool]:
        return {host: "secret" in world.lxd[host].pull("edge", CONFIG).decode() for host in world.made}

    world.made[late]._hop = ""
    world.edges.apply(fresh=True)
    assert ([world.way(host) for host in world.made], told()) == (ways, {"front": True, "other": True} | {late: False})
    world.made[late]._hop = "secret"
    world.edges.apply()
    assert ([world.way(host) for host in world.made], told()) == (ways, {"front": True, "other": True})
    before = [lxd.calls["execute"] for lxd in world.lxd.values()]
    world.edges.apply(fresh=True)
    assert [lxd.calls["execute"] for lxd in world.lxd.values()] == before


@pytest.mark.parametrize("domain", ["", "client x.agency.com", "http://client-y", "*", "\n", "Client-Y.agency.com"])
def test_an_invalid_domain_label_takes_no_other_tenant_offline(domain: str) -> None:
    world = World("only")
    world.add("only", "client-x", "tenant")
    world.add("only", "client-y", "tenant")
    world.lxd["only"].update("client-y", as_labels(domain=domain))
    world.edges.apply(fresh=True)
    assert world.way("only") == world.at("only", "client-x")
    config = json.loads(world.lxd["only"].pull("edge", CONFIG))
    routes = [
        *config["apps"]["http"]["servers"]["secure"]["routes"],
        *config["apps"]["http"]["servers"]["plain"]["routes"],
    ]
    hosts = [host for route in routes for match in route.get("match", ()) for host in match.get("host", ())]
    assert domain not in hosts
