"""The edge on a real server: names, certificates, forwarded headers, and reloads under load."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bot.edge.edge import NAME, Edge
from bot.lxd.gateway import LxdGateway
from bot.model.labels import as_labels
from tests.lab.conftest import BASE_DOMAIN, Clone, eventually
from tests.support.real_lxd import TINY
from tests.support.world import LISTEN

WHO = b"<?php if (isset($_GET['slow'])) sleep(3); echo json_encode([$_SERVER['REMOTE_ADDR'], $_SERVER['HTTPS'] ?? '']);"


@contextmanager
def connected(edge: Edge, domain: str) -> Iterator[http.client.HTTPConnection]:
    """Connect through the edge, and verify its certificate against the edge's own authority."""
    trust = ssl.create_default_context(cadata=edge.authority())
    connection = http.client.HTTPConnection(domain, 443, timeout=30)
    connection.sock = trust.wrap_socket(socket.create_connection((LISTEN, 443), 30), server_hostname=domain)
    try:
        yield connection
    finally:
        connection.close()


def get(edge: Edge, domain: str, path: str, **headers: str) -> tuple[int, str]:
    with connected(edge, domain) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def tenant(edge: Edge, clone: Callable[..., Clone]) -> Clone:
    made = clone(edge_address=edge.address)
    edge.apply()
    return made


@pytest.fixture(scope="module")
def who(host: LxdGateway, edge: Edge, clone: Callable[..., Clone]) -> Clone:
    """A tenant whose pages show the client's address and scheme as PHP sees them."""
    made = clone(edge_address=edge.address)
    host.push(made.name, "/var/www/mautic/index.php", WHO, mode=0o644)
    edge.apply()
    eventually(lambda: get(edge, made.domain, "/who")[1][:1], lambda first: first == "[")
    return made


def test_a_tenant_answers_at_its_domain(edge: Edge, tenant: Clone) -> None:
    found = eventually(lambda: edge.probe(tenant.domain), lambda probe: probe.login)
    assert (found.status, found.double, found.error) == (200, True, "")


def test_redirects_stay_on_the_public_address(edge: Edge, tenant: Clone) -> None:
    with connected(edge, tenant.domain) as connection:
        connection.request("GET", "/")
        location = connection.getresponse().getheader("Location", "")
    assert location.startswith(("/", f"https://{tenant.domain}/"))


def test_plain_http_is_redirected_to_https(tenant: Clone) -> None:
    connection = http.client.HTTPConnection(LISTEN, 80, timeout=30)
    connection.request("GET", "/s/login?x=1", headers={"Host": tenant.domain})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, f"https://{tenant.domain}/s/login?x=1")
    connection.close()


def test_an_unknown_domain_gets_a_polite_page(edge: Edge) -> None:
    status, page = get(edge, f"nobody.{BASE_DOMAIN}", "/s/login")
    assert status == 404
    assert "Nothing here" in page


def test_a_stopped_or_archived_tenant_gets_a_polite_page(
    host: LxdGateway, edge: Edge, clone: Callable[..., Clone]
) -> None:
    one = clone(edge_address=edge.address)
    edge.apply()
    eventually(lambda: edge.probe(one.domain), lambda probe: probe.login)
    # As in a deletion, which closes the page while the container still runs.
    host.update(one.name, as_labels(role="archived"))
    edge.apply()
    status, page = get(edge, one.domain, "/s/login")
    assert status == 503
    assert "Not open at the moment" in page
    host.update(one.name, as_labels(role="tenant"))
    edge.apply()
    eventually(lambda: edge.probe(one.domain), lambda probe: probe.login)
    host.stop(one.name, force=True)
    assert get(edge, one.domain, "/s/login") == (503, page), (
        "the container is stopped, and the edge does not know it yet"
    )


def test_forwarded_headers_of_a_client_are_ignored(edge: Edge, who: Clone) -> None:
    seen = get(edge, who.domain, "/who", X_Forwarded_For="203.0.113.9", Client_Ip="203.0.113.7", X_Forwarded_Proto="ws")
    assert seen == (200, '["127.0.0.1","on"]')


def test_a_tenant_reaches_the_edge_under_its_own_address_and_no_other_tenant(
    host: LxdGateway, edge: Edge, tenant: Clone, who: Clone
) -> None:
    forged = ["-H", "X-Forwarded-For: 203.0.113.9", "-H", "X-Forwarded-Proto: https", "-H", f"Host: {who.domain}"]

    def curl(url: str, patience: int, *more: str) -> tuple[int, str]:
        ended = host.execute(tenant.name, ["curl", "-sk", "--max-time", str(patience), *more, *forged, url])
        return ended.code, ended.stdout

    code, seen = curl(f"https://{who.domain}/who", 30, "--resolve", f"{who.domain}:443:{edge.address}")
    assert (code, json.loads(seen)) == (0, [tenant.address, "on"])
    code, seen = curl(f"http://{who.address}/who", 3)
    assert (code in (7, 28), seen) == (True, ""), "one tenant reached another"


def test_reloads_drop_no_connection(host: LxdGateway, edge: Edge, who: Clone, real_name: Callable[[], str]) -> None:
    """A slow page requested before five reloads arrives after them, and all requests meanwhile succeed."""
    held: list[tuple[int, str]] = []
    wrong: list[object] = []
    over = threading.Event()
    asked = 0

    def hold() -> None:
        held.append(get(edge, who.domain, "/who?slow"))

    def ask() -> None:
        nonlocal asked
        while not over.is_set():
            try:
                status, _ = get(edge, who.domain, "/who")
            except OSError as error:
                wrong.append(error)
            else:
                asked += 1
                if status != 200:
                    wrong.append(status)

    threads = [threading.Thread(target=run) for run in (hold, hold, ask, ask)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            config = as_labels(role="tenant", domain=f"reload-{number}.{BASE_DOMAIN}", state="new")
            host.create(real_name(), TINY, config=config, devices={})
            before = asked
            edge.apply()
            assert get(edge, f"reload-{number}.{BASE_DOMAIN}", "/")[0] == 503
            eventually(lambda: asked, lambda now, before=before: now > before)  # type: ignore[misc]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert held == [(200, '["127.0.0.1","on"]')] * 2


def test_reloads_keep_the_connections_that_wait_to_be_accepted(
    host: LxdGateway, edge: Edge, tenant: Clone, real_name: Callable[[], str]
) -> None:
    """Eight clients ask without a pause during twenty reloads; without `tcp_migrate_req` each reload resets about two.

    One is forgiven: a connection that is complete in the very moment in which its socket closes may be reset even so.
    """
    one = real_name()
    host.create(one, TINY, config=as_labels(role="tenant", state="new"), devices={})
    asked = lost = 0
    over = threading.Event()
    tally = threading.Lock()

    def ask() -> None:
        nonlocal asked, lost
        while not over.is_set():
            try:
                with socket.create_connection((LISTEN, 80), 30) as connection:
                    connection.sendall(f"GET / HTTP/1.0\r\nHost: {tenant.domain}\r\n\r\n".encode())
                    answered = connection.recv(1024).startswith(b"HTTP/1.0 308")
            except OSError:
                answered = False
            with tally:
                asked, lost = asked + 1, lost + (not answered)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            before = asked
            host.update(one, as_labels(domain=f"queued-{number}.{BASE_DOMAIN}"))
            edge.apply()
            eventually(lambda: asked, lambda now, before=before: now > before)  # type: ignore[misc]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert lost <= 1, f"{lost} of {asked} connections were lost"


def test_an_unchanged_configuration_is_not_written_again(host: LxdGateway, edge: Edge, tenant: Clone) -> None:
    def changed() -> str:
        return host.execute(NAME, ["stat", "-c", "%Y.%i", "/etc/caddy/edge.json"]).stdout

    edge.apply()
    before = changed()
    edge.apply()
    edge.apply(fresh=True)
    assert changed() == before


def test_routes_and_authority_survive_a_restart(host: LxdGateway, edge: Edge, tenant: Clone) -> None:
    authority = edge.authority()
    host.restart(NAME)
    assert eventually(lambda: edge.probe(tenant.domain), lambda probe: probe.login).login
    assert edge.authority() == authority


def test_ensuring_an_existing_edge_keeps_it(host: LxdGateway, edge: Edge) -> None:
    created = host.instance(NAME).created
    authority = edge.authority()
    edge.ensure()
    assert host.instance(NAME).created == created
    assert edge.authority() == authority
