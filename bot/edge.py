"""The edge: one reverse proxy (Caddy, in a container of its own) with the domains and TLS of all tenants of a host."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bot.blueprint.base import ensure_base
from bot.blueprint.build import install_packages, lay, run, until
from bot.blueprint.recipe import EDGE, recipe_tar
from bot.lxd import Instance, Lxd, LxdError, LxdUnavailable, NotFound, edge_address
from bot.tenants import stamp, stamps

NAME = "edge"
_CONFIG = "/etc/caddy/edge.json"
_ADMIN = "unix//run/caddy/admin.sock"
_ROOT = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
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
"""Headers in which a client could claim an address; Caddy itself replaces X-Forwarded-For, -Host and -Proto."""
_HOP = "Mautic-Ops-Hop"
"""Header of a request that one edge has passed on to another."""
_SECONDS = 30.0
"""How long the login page may take."""


@dataclass(frozen=True)
class ProbeResult:
    """One look at a login page through the edge. `status` is 0 where there was no answer, and `error` says why.

    The certificate is valid from and until then, in epoch seconds.
    """

    status: int
    login: bool
    seconds: float
    double: bool = False
    error: str = ""
    valid_from: float = 0.0
    valid_until: float = 0.0


@dataclass(frozen=True)
class Peer:
    """The edge of another host: the address it listens at, and its own authority's certificate (PEM, or empty)."""

    address: str
    authority: str


def routes(
    sites: Mapping[str, str | Peer],
    *,
    base_domain: str,
    tls: Literal["internal", "automatic"],
    email: str = "",
    https_port: int = 443,
    peers: Sequence[Peer] = (),
) -> dict[str, Any]:
    """Return Caddy's whole configuration.

    Args:
        sites: the address of each domain's tenant, or the edge of the host that it stands on; empty where it is not
            open, which gets a page that says so.
        https_port: the port that clients use, for the way there from plain HTTP; every edge of the fleet has the same.
        peers: the fleet's other edges, which are believed whom they speak for.
    """
    domains = sorted(sites)
    port = "" if https_port == 443 else f":{https_port}"
    own = [base_domain, f"*.{base_domain}"] if tls == "internal" else []
    # One certificate fits all names right under the base domain: a new tenant waits for none.
    automated = own + [domain for domain in domains if not own or domain.partition(".")[2] != base_domain]
    issuer = {"module": "internal"} if tls == "internal" else {"module": "acme", **({"email": email} if email else {})}
    secure = {
        "listen": [":443"],
        # HTTP/3 would be promised to clients, and its UDP port is not opened.
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        "tls_connection_policies": [{}],
        "routes": [
            *(route for domain in domains for route in _routes(domain, sites[domain], https_port, peers)),
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
        "admin": {"listen": _ADMIN},
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


def _routes(domain: str, site: str | Peer, https_port: int, peers: Sequence[Peer]) -> list[dict[str, Any]]:
    clean = {"handler": "headers", "request": {"delete": list(_PRETENCES)}}
    closed = {"match": [{"host": [domain]}], "handle": [_page(503)], "terminal": True}
    if isinstance(site, Peer):
        pem = "".join(site.authority.split("-----")[2:3])
        trust = {"root_ca_pool": ["".join(pem.split())]} if pem else {}
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"{site.address}:{https_port}"}],
            "transport": {"protocol": "http", "dial_timeout": "2s", "tls": {"server_name": domain, **trust}},
            "headers": {"request": {"set": {_HOP: ["1"]}}},
        }
        # What came from another edge goes no further: two that are not of one mind would send it to and fro.
        first_hop = {"host": [domain], "not": [{"header": {_HOP: ["*"]}}]}
        return [{"match": [first_hop], "handle": [clean, proxy], "terminal": True}, closed]
    if not site:
        return [closed]
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"{site}:80"}],
        # A container that is being moved answers nothing at all; whoever asks then is soon told to ask again.
        "transport": {"protocol": "http", "dial_timeout": "500ms"},
        "headers": {"request": {"delete": [_HOP]}},
    }
    believed = sorted({peer.address for peer in peers})
    if believed:
        proxy["trusted_proxies"] = believed
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


class Edge:
    """The edge of one host. Safe for many threads.

    Args:
        base_domain: tenants without a domain of their own are right under it.
        tls: certificates of Caddy's own authority, or public ones (which need ports 80 and 443, and DNS).
        email: contact of the public certificates.
        listen: address of the host that the ports are opened at; clients' own addresses are seen unless it is loopback.
        network: the bridge of the tenants, and `subnet` its address.
        cache: where the Debian base is kept.
        base: `debootstrap`, or the alias of a Debian image on the server.
        connect: address that the host's ports are reached at from here; empty: `listen`.
        member: the member of a cluster that it is the edge of; its container is then called after it.
    """

    def __init__(
        self,
        lxd: Lxd,
        *,
        base_domain: str,
        tls: Literal["internal", "automatic"],
        email: str,
        listen: str,
        http_port: int,
        https_port: int,
        network: str,
        subnet: str,
        cache: Path,
        base: str = "debootstrap",
        connect: str = "",
        member: str = "",
    ) -> None:
        self._lxd = lxd
        self._member = member
        self._name = f"{NAME}--{member}" if member else NAME
        self._unfinished = f"{self._name}--building"
        self._base_domain = base_domain
        self._tls = tls
        self._email = email
        self.listen = listen
        self._ports = {"http": (http_port, 80), "https": (https_port, 443)}
        self._network = network
        self.address = edge_address(subnet)
        self._cache = cache
        self._base = base
        self._connect = connect or listen
        self._lock = threading.Lock()
        self._applied = 0
        self._addresses: dict[tuple[str, str], str] = {}
        self._trust: ssl.SSLContext | None = None

    def ensure(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Have the edge there, running, at its address and ports, with today's routes."""
        with self._lock:
            found = {instance.name: instance for instance in self._lxd.instances()}
            if self._unfinished in found:
                self._delete(self._unfinished)
            if ":" in self.listen or self.listen == "0.0.0.0":  # noqa: S104
                raise LxdError(
                    f"The edge listens on one IPv4 address of its host, so that it sees who asks, and not on "
                    f"{self.listen}: set edge.listen, or the address of the cluster's member, to one."
                )
            devices = self._devices()
            recipe = hashlib.sha256(recipe_tar("edge")).hexdigest()[:12]
            if self._name not in found:
                progress("making the edge")
                self._make(devices, recipe, progress)
            elif stamp(found[self._name].config, "role") != "edge":
                raise LxdError(f"There is an instance `{self._name}` that is not the bot's; rename or remove it.")
            elif stamp(found[self._name].config, "recipe") != recipe:
                progress("renewing the edge")
                self._lxd.start(self._name)
                self._furnish(self._name)
                self._lxd.restart(self._name)
                self._lxd.update(self._name, stamps(recipe=recipe), devices)
            elif found[self._name].devices != devices:
                gone = dict.fromkeys(found[self._name].devices.keys() - devices.keys())
                self._lxd.update(self._name, {}, {**devices, **gone})
            self._lxd.start(self._name)
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
            self._trust = None
        self.apply(fresh=True, partly=True)

    def remove(self) -> None:
        """Take the edge away, with its certificates; no effect when it is not there."""
        with self._lock:
            names = {instance.name for instance in self._lxd.instances() if stamp(instance.config, "role") == "edge"}
            for name in names & {self._name, self._unfinished}:
                self._delete(name)
            self._trust = None

    def domains(self) -> dict[str, int]:
        """Return the domains that this host has, and how good its right to each is: 3 by an open tenant, 2 by one that
        is closed, or an archive, 1 by an open heir, 0 by a tenant that is closed for its heir.

        Raises LxdUnavailable when its member of the cluster is offline: nobody knows then, and all there may go on.
        """
        if any(one.status == "Error" for one in self._lxd.instances() if one.location == self._member != ""):
            raise LxdUnavailable(f"The cluster's member {self._member} is offline.")
        return {domain: right for domain, (right, _) in self._tenants().items()}

    def apply(
        self,
        *,
        fresh: bool = False,
        elsewhere: Mapping[str, Peer] | None = None,
        peers: Sequence[Peer] = (),
        partly: bool = False,
        number: int = 0,
    ) -> None:
        """Make routes and certificates what LXD says, without dropping a connection; nothing happens when they are.

        A tenant's address is asked of LXD once for each of its interfaces; `fresh` asks for all anew.

        Args:
            elsewhere: the edges of the domains that other hosts have a better right to.
            peers: the edges of all hosts.
            partly: not every host could be asked, so ways to others that nobody speaks of any more are kept.
            number: of those who look at other hosts first, who looked last; one who comes late does nothing.
        """
        with self._lock:
            if 0 < number < self._applied:
                return
            self._apply(fresh, elsewhere or {}, peers, partly)
            self._applied = max(number, self._applied)

    def _apply(self, fresh: bool, elsewhere: Mapping[str, Peer], peers: Sequence[Peer], partly: bool) -> None:
        if fresh and not self._lxd.instance(self._name).running:
            # Nobody stops it on purpose.
            self._lxd.start(self._name)
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
        here, learned = self._sites(fresh)
        present = self._lxd.pull(self._name, _CONFIG).decode()
        kept = _ways_elsewhere(present) if partly else {}
        config = json.dumps(
            routes(
                {**kept, **here, **elsewhere},
                base_domain=self._base_domain,
                tls=self._tls,
                email=self._email,
                https_port=self._ports["https"][0],
                peers=[peer for peer in peers if peer.address != self.listen],
            ),
            indent=1,
        )
        # An address that another tenant had before is still known there by that one's MAC, for up to a minute.
        forget = "ip neigh flush dev eth0; " if learned else ""
        if config == present:
            if forget:
                run(self._lxd, self._name, forget)
            return
        # The file that a restart reads is replaced only by what was loaded well.
        following = f"/etc/caddy/next-{secrets.token_hex(4)}.json"
        self._lxd.push(self._name, following, config.encode(), mode=0o644)
        load = f"caddy reload --config {following} --address {_ADMIN} 2>&1 && mv {following} {_CONFIG}"
        # Another bot, or `make up`, may be at it too.
        run(self._lxd, self._name, f"{forget}flock /etc/caddy sh -c '{load}' || {{ rm -f {following}; exit 1; }}")

    def probe(self, domain: str) -> ProbeResult:
        """Ask for a domain's login page through the edge, as a client would: its port, its name, its certificate."""
        began = time.monotonic()
        try:
            status, header, body, valid = self._get(domain, "/s/login")
        except (OSError, http.client.HTTPException, LxdError) as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                self._trust = None
            return ProbeResult(0, False, time.monotonic() - began, error=f"{type(error).__name__}: {error}"[:200])
        login = status == 200 and b'name="_username"' in body
        return ProbeResult(status, login, time.monotonic() - began, bool(header), "", *valid)

    def authority(self) -> str:
        """Return the certificate of the edge's own authority (PEM), for those who are to trust it; empty: none yet."""
        try:
            return self._lxd.pull(self._name, _ROOT).decode()
        except NotFound:
            return ""

    def _get(self, domain: str, path: str) -> tuple[int, str, bytes, tuple[float, float]]:
        port = self._ports["https"][0]
        connection = http.client.HTTPConnection(domain, port, timeout=_SECONDS)
        with (
            socket.create_connection((self._connect, port), timeout=_SECONDS) as plain,
            self._trusting().wrap_socket(plain, server_hostname=domain) as secure,
        ):
            certificate = secure.getpeercert() or {}
            begins, ends = (ssl.cert_time_to_seconds(str(certificate[end])) for end in ("notBefore", "notAfter"))
            connection.sock = secure
            connection.request("GET", path, headers={"User-Agent": "mautic-ops", "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("X-Mautic-Double", ""), answer.read(), (begins, ends)

    def _trusting(self) -> ssl.SSLContext:
        trust = self._trust
        if trust is None:
            trust = ssl.create_default_context()
            if self._tls == "internal":
                trust.load_verify_locations(cadata=self._lxd.pull(self._name, _ROOT).decode())
            self._trust = trust
        return trust

    def _tenants(self) -> dict[str, tuple[int, Instance]]:
        """Return each domain's right, as `domains` does, and who has it."""
        here = [one for one in self._lxd.instances() if not self._member or one.location == self._member]
        found: dict[str, tuple[int, Instance]] = {}
        for instance in here:
            domain, role, state = (stamp(instance.config, fact) for fact in ("domain", "role", "state"))
            if role in ("tenant", "archived"):
                right = 3 if _is_open(instance) else 0 if state == "moving" else 2
            elif role == "incoming" and _is_open(instance):
                # An heir is open before it is the tenant. One that its operation could not take away may still be open
                # when the tenant goes on, or is closed, and what is written to it is lost.
                right = 1
            else:
                continue
            if domain and (domain not in found or right > found[domain][0]):
                found[domain] = right, instance
        return found

    def _sites(self, fresh: bool) -> tuple[dict[str, str], bool]:
        """Return the address of each domain, empty where it is not open, and whether an address was learned."""
        found = self._tenants()
        live = {domain: instance for domain, (_, instance) in found.items() if _is_open(instance)}
        if fresh:
            self._addresses.clear()
        unknown = [instance for instance in live.values() if not self._addresses.get(_interface(instance))]
        # The state of one costs a request; that of all costs one too, but a slow one.
        states = self._lxd.states() if len(unknown) > 4 else {it.name: self._lxd.state(it.name) for it in unknown}
        for instance in unknown:
            if instance.name in states:
                self._addresses[_interface(instance)] = states[instance.name].address
        opened = {domain: self._addresses.get(_interface(instance), "") for domain, instance in live.items()}
        return {**dict.fromkeys(found, ""), **opened}, bool(unknown)

    def _make(self, devices: Mapping[str, Mapping[str, str]], recipe: str, progress: Callable[[str], None]) -> None:
        debootstrap = self._base == "debootstrap"
        image = ensure_base(self._lxd, "edge", self._cache, progress) if debootstrap else self._base
        config = {"boot.autostart": "true", "boot.autostart.priority": "10", **stamps(role="edge", recipe=recipe)}
        self._lxd.create(self._unfinished, image, config=config, devices={})
        try:
            self._lxd.start(self._unfinished)
            if not debootstrap:
                install_packages(self._lxd, self._unfinished, EDGE)
            self._furnish(self._unfinished)
            first = routes({}, base_domain=self._base_domain, tls=self._tls, email=self._email)
            self._lxd.push(self._unfinished, _CONFIG, json.dumps(first, indent=1).encode(), mode=0o644)
            self._lxd.stop(self._unfinished)
            # A running container may not be given an address: it would keep the one that it leased.
            self._lxd.update(self._unfinished, {}, devices)
            self._lxd.rename(self._unfinished, self._name)
        except BaseException:
            self._delete(self._unfinished)
            raise

    def _furnish(self, name: str) -> None:
        until(self._lxd, name, "systemctl is-system-running | grep -Eq 'running|degraded'")
        lay(self._lxd, name, "edge")

    def _delete(self, name: str) -> None:
        self._lxd.stop(name, force=True)
        self._lxd.delete(name)

    def _devices(self) -> dict[str, dict[str, str]]:
        # Not isolated as the tenants' ports are: this one is to reach them all.
        devices = {
            "eth0": {"type": "nic", "name": "eth0", "network": self._network, "ipv4.address": self.address},
        }
        loopback = re.match(r"127\.|::1$|localhost$", self.listen)
        for name, (outside, inside) in self._ports.items():
            device = {"type": "proxy", "listen": f"tcp:{self.listen}:{outside}", "bind": "host"}
            if loopback:
                device["connect"] = f"tcp:127.0.0.1:{inside}"
            else:
                # By the kernel, so that Caddy sees who speaks.
                device |= {"nat": "true", "connect": f"tcp:{self.address}:{inside}"}
            devices[name] = device
        return devices


def _ways_elsewhere(config: str) -> dict[str, Peer]:
    """Return the domains that a configuration passes on to other edges, with these."""
    found: dict[str, Peer] = {}
    for route in json.loads(config)["apps"]["http"]["servers"]["secure"]["routes"]:
        proxy = route["handle"][-1]
        tls = proxy.get("transport", {}).get("tls")
        if tls:
            pem = "".join(tls.get("root_ca_pool", []))
            authority = f"-----BEGIN CERTIFICATE-----{pem}-----END CERTIFICATE-----" if pem else ""
            found[route["match"][0]["host"][0]] = Peer(proxy["upstreams"][0]["dial"].rpartition(":")[0], authority)
    return found


def _is_open(instance: Instance) -> bool:
    """Whether visitors are led there; not to an archive that still runs, since what they write would go with it."""
    live = stamp(instance.config, "state") == "live"
    return live and instance.running and stamp(instance.config, "role") != "archived"


def _interface(instance: Instance) -> tuple[str, str]:
    """What an address belongs to: a clone has an interface of its own, and another name is another lease."""
    return instance.name, instance.config.get("volatile.eth0.hwaddr", "")
