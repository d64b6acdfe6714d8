"""The edge: one reverse proxy (Caddy, in a container of its own) with the domains and TLS of all tenants of a host."""

from __future__ import annotations

import hashlib
import http.client
import io
import ipaddress
import json
import logging
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from bot.blueprint.base import ensure_base
from bot.blueprint.build import install_packages, lay, run, until
from bot.blueprint.recipe import EDGE, recipe_tar
from bot.labels import Role, Seen, holder, is_open, right, role_of, seen, stamp, stamps
from bot.lxd import Instance, Lxd, LxdError, LxdUnavailable, NotFound, edge_address
from bot.wire import NIC, given, trusted
from bot.words import tame

log = logging.getLogger(__name__)
NAME = "edge"
_CONFIG = "/etc/caddy/edge.json"
_NETWORK = "/etc/edge-network"
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
PAGE_SECONDS = 30.0
"""How long the login page may take, to its last byte."""
MOST = 1 << 20
"""Bytes of a login page; Mautic's own has some twenty thousand."""


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


class _Read:
    """What http.client reads an answer of that is there as a whole."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._content)


def read_page(content: bytes) -> tuple[int, str, bytes]:
    """Return status, the double's mark and body of an answer over HTTP; what is cut short counts as far as it goes.

    Raises HTTPException for what is none.
    """
    answer = http.client.HTTPResponse(cast(socket.socket, _Read(content)), method="GET")
    answer.begin()
    try:
        body = answer.read()
    except http.client.IncompleteRead as cut:
        body = cut.partial
    return answer.status, answer.getheader("X-Mautic-Double", ""), body


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


def _words(error: Exception) -> str:
    return tame(f"{type(error).__name__}: {error}", 200)


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
        self._subnet = subnet
        self.address = edge_address(subnet)
        self._cache = cache
        self._base = base
        self._connect = connect or listen
        self._lock = threading.Lock()
        self._applied = 0
        self._met: set[tuple[str, str, str]] = set()
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
            elif role_of(found[self._name].config) != Role.EDGE:
                raise LxdError(f"There is an instance `{self._name}` that is not the bot's; rename or remove it.")
            elif stamp(found[self._name].config, "recipe") != recipe:
                progress("renewing the edge")
                self._lxd.start(self._name)
                self._furnish(self._name)
                self._lxd.update(self._name, {}, devices)
                self._lxd.restart(self._name)
                self._lxd.update(self._name, stamps(recipe=recipe))
            elif found[self._name].devices != devices:
                gone = dict.fromkeys(found[self._name].devices.keys() - devices.keys())
                self._lxd.update(self._name, {}, {**devices, **gone})
            self._lxd.start(self._name)
            # What was plugged in anew has no address.
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
            run(self._lxd, self._name, f"ip -4 address show {NIC} | grep -q inet || systemctl restart network")
            self._trust = None
        self.apply(fresh=True, partly=True)

    def remove(self) -> None:
        """Take the edge away, with its certificates; no effect when it is not there."""
        with self._lock:
            names = {instance.name for instance in self._lxd.instances() if role_of(instance.config) == Role.EDGE}
            for name in names & {self._name, self._unfinished}:
                self._delete(name)
            self._trust = None

    def domains(self) -> dict[str, int]:
        """Return the domains that this host has, and how good its right to each is: 3 by an open tenant, 2 by one that
        is closed, or an archive, 1 by an open candidate, 0 by a tenant that is closed for its candidate.

        Raises LxdUnavailable when its member of the cluster is offline: nobody knows then, and all there may go on.
        """
        here = self._here()
        if self._member and any(one.status == "Error" for one in here):
            raise LxdUnavailable(f"The cluster's member {self._member} is offline.")
        return {domain: right for domain, (right, _) in _tenants(here).items()}

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

        A tenant is routed to where its configuration says, whatever it tells of itself. Where it was given no address
        yet, it is now.

        Args:
            fresh: see to it that the edge runs, too.
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
        here, learned = self._sites()
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
        forget = f"ip neigh flush dev {NIC}; " if learned else ""
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

    def probe(self, domain: str, seconds: float = PAGE_SECONDS) -> ProbeResult:
        """Ask for a domain's login page through the edge, as a client would: its port, its name, its certificate.

        It has so many seconds until it is there as a whole, and is read up to MOST bytes: a tenant serves what it will.
        """
        began = time.monotonic()
        try:
            page, why, valid = self._get(domain, "/s/login", seconds)
        except (OSError, LxdError) as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                self._trust = None
            return ProbeResult(0, False, time.monotonic() - began, error=_words(error))
        status, header, body = 0, "", b""
        try:
            status, header, body = read_page(page)
        except http.client.HTTPException as error:
            why = why or _words(error)
        login = status == 200 and not why and b'name="_username"' in body
        return ProbeResult(status, login, time.monotonic() - began, bool(header), why, *valid)

    def authority(self) -> str:
        """Return the certificate of the edge's own authority (PEM), for those who are to trust it; empty: none yet."""
        try:
            return self._lxd.pull(self._name, _ROOT).decode()
        except NotFound:
            return ""

    def _get(self, domain: str, path: str, seconds: float) -> tuple[bytes, str, tuple[float, float]]:
        """Return what comes, with its headers; why that is not all ("" when it is); and the certificate's times."""
        end = time.monotonic() + seconds

        def left() -> float:
            found = end - time.monotonic()
            if found <= 0:
                raise TimeoutError(f"nothing came within {seconds:.0f} s")
            return found

        port = self._ports["https"][0]
        host = domain if port == 443 else f"{domain}:{port}"
        asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mautic-ops\r\nConnection: close\r\n\r\n"
        page = bytearray()
        with socket.create_connection((self._connect, port), timeout=left()) as plain:
            trust = self._trusting()
            # Each call has what is left of the time, as a whole.
            plain.settimeout(left())
            with trust.wrap_socket(plain, server_hostname=domain) as secure:
                certificate = secure.getpeercert() or {}
                begins, ends = (ssl.cert_time_to_seconds(str(certificate[end])) for end in ("notBefore", "notAfter"))
                valid = begins, ends
                try:
                    secure.settimeout(left())
                    secure.sendall(asked.encode())
                    while len(page) <= MOST:
                        secure.settimeout(left())
                        piece = secure.recv(1 << 16)
                        if not piece:
                            return bytes(page), "", valid
                        page += piece
                except TimeoutError:
                    return bytes(page), f"a page that is not whole within {seconds:.0f} s", valid
        return bytes(page), f"a page of more than {MOST >> 20} MiB", valid

    def _trusting(self) -> ssl.SSLContext:
        trust = self._trust
        if trust is None:
            trust = ssl.create_default_context()
            if self._tls == "internal":
                trust.load_verify_locations(cadata=self._lxd.pull(self._name, _ROOT).decode())
            self._trust = trust
        return trust

    def _sites(self) -> tuple[dict[str, str], bool]:
        """Return the address of each domain, empty where it is not open, and whether somebody has one newly."""
        here = self._here()
        found = _tenants(here)
        if self._pin(instance for _, instance in found.values() if _is_open(instance) and not given(instance)):
            here = self._here()
            found = _tenants(here)
        addresses = trusted(here, self._subnet)
        live = {domain: instance for domain, (_, instance) in found.items() if _is_open(instance)}
        opened = {domain: addresses.get(instance.name, "") for domain, instance in live.items()}
        for domain in sorted(domain for domain, address in opened.items() if not address):
            log.error("%s is not routed to: it has no address that is its own", live[domain].name)
        interfaces = {
            (it.name, it.config.get(f"volatile.{NIC}.hwaddr", ""), addresses.get(it.name, "")) for it in live.values()
        }
        learned, self._met = bool(interfaces - self._met), interfaces
        return {**dict.fromkeys(found, ""), **opened}, learned

    def _pin(self, nameless: Iterable[Instance]) -> bool:
        """Give those an address that come from a time when LXD alone did; tell whether there was any."""
        some = False
        for instance in nameless:
            some = True
            try:
                self._lxd.pin(instance.name)
            except LxdError as error:
                # The others are not to wait for it.
                log.warning("%s has no address yet: %s", instance.name, error)
        return some

    def _here(self) -> list[Instance]:
        return [one for one in self._lxd.instances() if not self._member or one.location == self._member]

    def _make(self, devices: Mapping[str, Mapping[str, str]], recipe: str, progress: Callable[[str], None]) -> None:
        debootstrap = self._base == "debootstrap"
        image = ensure_base(self._lxd, "edge", self._cache, progress) if debootstrap else self._base
        config = {"boot.autostart": "true", "boot.autostart.priority": "10", **stamps(role=Role.EDGE, recipe=recipe)}
        self._lxd.create(self._unfinished, image, config=config, devices={})
        try:
            self._lxd.start(self._unfinished)
            if not debootstrap:
                install_packages(self._lxd, self._unfinished, EDGE)
            self._furnish(self._unfinished)
            first = routes({}, base_domain=self._base_domain, tls=self._tls, email=self._email)
            self._lxd.push(self._unfinished, _CONFIG, json.dumps(first, indent=1).encode(), mode=0o644)
            self._lxd.stop(self._unfinished)
            self._lxd.update(self._unfinished, {}, devices)
            self._lxd.rename(self._unfinished, self._name)
        except BaseException:
            self._delete(self._unfinished)
            raise

    def _furnish(self, name: str) -> None:
        until(self._lxd, name, "systemctl is-system-running | grep -Eq 'running|degraded'")
        lay(self._lxd, name, "edge")
        network = ipaddress.IPv4Interface(self._subnet)
        words = f"ADDRESS={self.address}/{network.network.prefixlen}\nGATEWAY={network.ip}\n"
        self._lxd.push(name, _NETWORK, words.encode(), mode=0o644)

    def _delete(self, name: str) -> None:
        self._lxd.stop(name, force=True)
        self._lxd.delete(name)

    def _devices(self) -> dict[str, dict[str, str]]:
        # Not isolated as the tenants' ports are: this one is to reach them all.
        devices = {
            NIC: {"type": "nic", "name": NIC, "network": self._network, "ipv4.address": self.address},
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


def _tenants(here: Sequence[Instance]) -> dict[str, tuple[int, Instance]]:
    """Return each domain's right, as `domains` does, and who has it."""
    named = {instance.name: instance for instance in here}
    by_domain: dict[str, list[Seen]] = {}
    for instance in here:
        if domain := stamp(instance.config, "domain"):
            by_domain.setdefault(domain, []).append(_seen(instance))
    found = {domain: (right(one), one) for domain, its in by_domain.items() if (one := holder(its))}
    return {domain: (its, named[one.instance]) for domain, (its, one) in found.items() if its is not None}


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


def _seen(instance: Instance) -> Seen:
    return seen(instance.name, instance.config, running=instance.running)


def _is_open(instance: Instance) -> bool:
    return is_open(_seen(instance))
