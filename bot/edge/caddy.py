"""Builds the Caddy configuration of one edge: which domain goes to which tenant. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ADMIN = "unix//run/caddy/admin.sock"
"""The address at which Caddy accepts a new configuration."""
_PRETENCES = (
    "Client-Ip",
    "Forwarded",
    "Forwarded-For",
    "X-Cluster-Client-Ip",
    "X-Forwarded",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Real-Ip",
)
"""Headers in which a client could claim an address. Caddy itself replaces X-Forwarded-For, -Host and -Proto."""
_HOP = "Mautic-Ops-Hop"
"""The header of a request that one edge has passed on to another; its value is the fleet's secret."""
_CLIENT = "{mautic_ops.client}"
"""Caddy's placeholder for the client address that a tenant is given."""


@dataclass(frozen=True)
class Peer:
    """The edge of another host: the address that it listens on, and its authority's certificate (PEM, or empty)."""

    address: str
    authority: str


def routes(
    sites: Mapping[str, str | Peer],
    *,
    base_domain: str,
    tls: Literal["internal", "automatic"],
    email: str = "",
    https_port: int = 443,
    hop: str = "",
) -> dict[str, Any]:
    """Return Caddy's whole configuration.

    Args:
        sites: the address of each domain's tenant, or the edge of the host that the tenant runs on; empty where the
            tenant is not open, which gets a page that says so.
        https_port: the port that clients use, for redirects from plain HTTP; it is the same on every edge of the fleet.
        hop: the secret of the fleet's edges, by which they trust each other's word on a client's address. Source
            addresses do not prove that: tenants leave by the same ones, so a tenant could claim to be any client.
            Empty: no edge is trusted.
    """
    domains = sorted(sites)
    port = "" if https_port == 443 else f":{https_port}"
    own = [base_domain, f"*.{base_domain}"] if tls == "internal" else []
    # One wildcard certificate covers all names directly under the base domain, so a new tenant waits for none.
    automated = own + [domain for domain in domains if not own or domain.partition(".")[2] != base_domain]
    issuer = {"module": "internal"} if tls == "internal" else {"module": "acme", **({"email": email} if email else {})}
    secure = {
        "listen": [":443"],
        # Without this Caddy would advertise HTTP/3 to clients, whose UDP port is not open.
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        "tls_connection_policies": [{}],
        "routes": [
            *([{"handle": [_client(hop)]}] if hop else []),
            *(route for domain in domains for route in _routes(domain, sites[domain], https_port, hop)),
            {"handle": [_page(404)]},
        ],
        "errors": {"routes": [{"handle": [_page(503)]}]},
    }
    redirect = {
        "handler": "static_response",
        "status_code": "308",
        "headers": {"Location": [f"https://{{http.request.host}}{port}{{http.request.uri}}"]},
    }
    plain = {
        "listen": [":80"],
        "automatic_https": {"disable": True},
        "routes": [
            *([{"match": [{"host": domains}], "handle": [redirect], "terminal": True}] if domains else []),
            {"handle": [_page(404)]},
        ],
    }
    return {
        "admin": {"listen": ADMIN},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {"grace_period": "5m", "servers": {"secure": secure, "plain": plain}},
            "tls": {
                "certificates": {"automate": automated},
                "automation": {"policies": [{"issuers": [issuer]}]},
            },
            "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
        },
    }


def _client(hop: str) -> dict[str, Any]:
    """Return the handler that sets the client: the peer, or the peer's own client where the peer is another edge."""
    seen = {"input": hop, "outputs": ["{http.request.header.X-Forwarded-For}"]}
    return {
        "handler": "map",
        "source": f"{{http.request.header.{_HOP}}}",
        "destinations": [_CLIENT],
        "mappings": [seen],
        "defaults": ["{http.request.remote.host}"],
    }


def _routes(domain: str, site: str | Peer, https_port: int, hop: str) -> list[dict[str, Any]]:
    clean = {"handler": "headers", "request": {"delete": list(_PRETENCES)}}
    closed = {"match": [{"host": [domain]}], "handle": [_page(503)], "terminal": True}
    if isinstance(site, Peer):
        pem = "".join(site.authority.split("-----")[2:3])
        trust = {"root_ca_pool": ["".join(pem.split())]} if pem else {}
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"{site.address}:{https_port}"}],
            "transport": {"protocol": "http", "dial_timeout": "2s", "tls": {"server_name": domain, **trust}},
            "headers": {"request": {"set": {_HOP: [hop or "1"]}}},
        }
        # A request from another edge goes no further, or two edges that disagree would send it back and forth. Any
        # value of the header counts, as not all edges may have the secret yet.
        first_hop = {"host": [domain], "not": [{"header": {_HOP: ["*"]}}]}
        return [{"match": [first_hop], "handle": [clean, proxy], "terminal": True}, closed]
    if not site:
        return [closed]
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"{site}:80"}],
        # A container that is being moved does not answer at all; its visitors soon get a page that asks to try again.
        "transport": {"protocol": "http", "dial_timeout": "500ms"},
        # Caddy would append the other edge to X-Forwarded-For, and tenants take the last address in it.
        "headers": {"request": {"delete": [_HOP], **({"set": {"X-Forwarded-For": [_CLIENT]}} if hop else {})}},
    }
    return [{"match": [{"host": [domain]}], "handle": [clean, proxy], "terminal": True}]


def _page(status: Literal[404, 503]) -> dict[str, Any]:
    title, text = {
        404: ("Nothing here", "There is no site at this address. Is it spelt right?"),
        503: ("Not open at the moment", "This site is starting, or closed for now. Please try again a little later."),
    }[status]
    headers = {"Content-Type": ["text/html; charset=utf-8"], "Cache-Control": ["no-store"]}
    if status == 503:
        headers["Retry-After"] = ["10"]
    return {
        "handler": "static_response",
        "status_code": str(status),
        "headers": headers,
        "body": (
            '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">'
            f"<title>{title}</title><style>body{{font:18px/1.5 system-ui,sans-serif;max-width:30em;margin:20vh auto;"
            f"padding:0 1em;color:#333}}</style><h1>{title}</h1><p>{text}</p></html>\n"
        ),
    }


def routes_to_peers(config: str) -> dict[str, Peer]:
    """Return the domains that a configuration passes on to other edges, with those edges."""
    found: dict[str, Peer] = {}
    for route in json.loads(config)["apps"]["http"]["servers"]["secure"]["routes"]:
        proxy = route["handle"][-1]
        tls = proxy.get("transport", {}).get("tls")
        if tls:
            pem = "".join(tls.get("root_ca_pool", []))
            authority = f"-----BEGIN CERTIFICATE-----{pem}-----END CERTIFICATE-----" if pem else ""
            found[route["match"][0]["host"][0]] = Peer(proxy["upstreams"][0]["dial"].rpartition(":")[0], authority)
    return found
