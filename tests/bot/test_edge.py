"""Caddy's configuration, as derived from the fleet's domains and addresses."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from bot.edge.caddy import Peer, routes

SITES = {"client-x.agency.com": "10.70.0.16", "mail.client-y.com": "10.70.0.17", "closed.agency.com": ""}


def made(sites: Mapping[str, str | Peer], **settings: Any) -> dict[str, Any]:
    return routes(sites, **{"base_domain": "agency.com", "tls": "internal", **settings})


def server(config: dict[str, Any], name: str = "secure") -> dict[str, Any]:
    found: dict[str, Any] = config["apps"]["http"]["servers"][name]
    return found


def route(config: dict[str, Any], domain: str) -> list[dict[str, Any]]:
    """Return the handlers of a domain; those of an unknown domain are the last, which have no matcher."""
    for one in server(config)["routes"]:
        if "match" not in one and one["handle"][-1]["handler"] == "map":
            continue
        if "match" not in one or domain in one["match"][0]["host"]:
            handlers: list[dict[str, Any]] = one["handle"]
            return handlers
    raise AssertionError(domain)


def test_a_domain_is_routed_to_its_tenants_address() -> None:
    handlers = route(made(SITES), "client-x.agency.com")
    assert handlers[-1]["handler"] == "reverse_proxy"
    assert handlers[-1]["upstreams"] == [{"dial": "10.70.0.16:80"}]


def test_the_domain_of_a_closed_tenant_gets_a_page_that_says_so() -> None:
    (page,) = route(made(SITES), "closed.agency.com")
    assert (page["handler"], page["status_code"]) == ("static_response", "503")
    assert "Not open at the moment" in page["body"]
    assert page["headers"]["Retry-After"] == ["10"]


def test_the_domain_of_a_silent_tenant_gets_the_same_page() -> None:
    (error,) = server(made(SITES))["errors"]["routes"]
    assert error["handle"] == route(made(SITES), "closed.agency.com")


def test_an_unknown_domain_gets_a_404_page_on_either_port() -> None:
    (page,) = route(made(SITES), "nobody.agency.com")
    assert page["status_code"] == "404"
    assert server(made(SITES), "plain")["routes"][-1] == {"handle": [page]}
    assert len(server(made({}), "plain")["routes"]) == 1


def test_plain_http_redirects_to_https_at_the_port_that_clients_use() -> None:
    def location(**settings: Any) -> list[str]:
        handle = server(made(SITES, **settings), "plain")["routes"][0]["handle"]
        found: list[str] = handle[0]["headers"]["Location"]
        return found

    assert location() == ["https://{http.request.host}{http.request.uri}"]
    assert location(https_port=8443) == ["https://{http.request.host}:8443{http.request.uri}"]


def test_a_client_cannot_forge_its_address() -> None:
    clean = route(made(SITES), "client-x.agency.com")[0]
    assert {"Client-Ip", "Forwarded", "X-Real-Ip"} <= set(clean["request"]["delete"])


def test_only_the_secret_lets_another_edge_name_its_client() -> None:
    """Its address proves nothing, because the traffic of the tenants on its host leaves from the same one."""
    config = made(SITES, hop="secret")
    (who,) = server(config)["routes"][0]["handle"]
    assert who["source"] == "{http.request.header.Mautic-Ops-Hop}"
    assert who["mappings"] == [{"input": "secret", "outputs": ["{http.request.header.X-Forwarded-For}"]}]
    assert who["defaults"] == ["{http.request.remote.host}"]
    proxy = route(config, "client-x.agency.com")[-1]
    assert proxy["headers"]["request"]["set"] == {"X-Forwarded-For": who["destinations"]}, "the client alone"
    assert "trusted_proxies" not in proxy


def test_the_secret_goes_to_another_edge_but_not_to_a_tenant() -> None:
    config = made({**SITES, "far.agency.com": Peer("192.0.2.2", "")}, hop="secret")
    assert route(config, "far.agency.com")[-1]["headers"] == {"request": {"set": {"Mautic-Ops-Hop": ["secret"]}}}
    assert route(config, "client-x.agency.com")[-1]["headers"]["request"]["delete"] == ["Mautic-Ops-Hop"]


@pytest.mark.parametrize("hop", ["", "secret"])
def test_a_request_from_another_edge_is_not_forwarded_to_a_third(hop: str) -> None:
    """Any value of the header counts: an edge that does not know the secret yet sends another one, as do strangers."""
    routed = server(made({"far.agency.com": Peer("192.0.2.2", "")}, hop=hop))["routes"]
    first, then = [one for one in routed if "match" in one]
    assert first["match"] == [{"host": ["far.agency.com"], "not": [{"header": {"Mautic-Ops-Hop": ["*"]}}]}]
    assert (then["match"], then["handle"][0]["status_code"]) == ([{"host": ["far.agency.com"]}], "503")


def test_an_edge_without_a_secret_trusts_nobody() -> None:
    """Every client could send an empty secret."""
    proxy = route(made(SITES), "client-x.agency.com")[-1]
    assert proxy["headers"] == {"request": {"delete": ["Mautic-Ops-Hop"]}}
    assert "map" not in json.dumps(made(SITES))
    far = made({"far.agency.com": Peer("192.0.2.2", "")})
    assert route(far, "far.agency.com")[-1]["headers"]["request"]["set"] == {"Mautic-Ops-Hop": ["1"]}


def test_the_internal_authority_uses_one_certificate_for_all_names_under_the_base_domain() -> None:
    tls = made(SITES)["apps"]["tls"]
    assert tls["certificates"]["automate"] == ["agency.com", "*.agency.com", "mail.client-y.com"]
    assert tls["automation"]["policies"] == [{"issuers": [{"module": "internal"}]}]


def test_each_domain_has_its_own_public_certificate() -> None:
    tls = made(SITES, tls="automatic", email="ops@agency.com")["apps"]["tls"]
    assert tls["certificates"]["automate"] == sorted(SITES)
    assert tls["automation"]["policies"] == [{"issuers": [{"module": "acme", "email": "ops@agency.com"}]}]


def test_the_order_of_domains_does_not_change_the_configuration() -> None:
    again = dict(reversed(SITES.items()))
    assert json.dumps(made(SITES)) == json.dumps(made(again))


def test_caddy_is_managed_only_through_a_socket_inside_the_edge() -> None:
    assert made(SITES)["admin"] == {"listen": "unix//run/caddy/admin.sock"}
