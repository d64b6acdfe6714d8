"""Runs a host's edge: a reverse proxy (Caddy, in a container) with the domains and TLS of the host's tenants."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from bot.edge.caddy import Peer, routes, routes_to_peers
from bot.edge.load import CONFIG, load
from bot.edge.probe import PAGE_SECONDS, Pages, Probe
from bot.guest.blueprint.base import ensure_base
from bot.guest.blueprint.build import install_packages, lay, run, until
from bot.guest.blueprint.recipe import EDGE, recipe_tar
from bot.lxd.protocol import Instance, Lxd, LxdError, LxdUnavailable, NotFound, edge_address
from bot.lxd.wire import NIC, given, trusted
from bot.model.labels import Role, Seen, State, as_labels, holder, is_open, label_of, right, role_of, seen, state_of

log = logging.getLogger(__name__)
NAME = "edge"
_NETWORK = "/etc/edge-network"
_DOMAIN = re.compile(r"[a-z0-9.-]{1,253}")
_TO_BE_OPENED = ((Role.TENANT, State.NEW), (Role.INCOMING, State.MOVING))
_ROOT = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"


class Edge:
    """The edge of one host. Thread-safe. The class is longer than others because of its methods' many arguments.

    Args:
        base_domain: tenants without a domain of their own are directly under it.
        tls: certificates of Caddy's own authority, or public ones (which need ports 80 and 443, and DNS).
        email: contact for public certificates.
        listen: address of the host on which the ports are opened. Unless it is loopback, the edge sees clients'
            addresses.
        network: the tenants' bridge; `subnet` is its address.
        cache: directory that keeps the Debian base.
        base: `debootstrap`, or the alias of a Debian image on the server.
        connect: address at which the bot reaches the host's ports; empty: `listen`.
        member: the cluster member of the edge, which is then part of its container's name.
        hop: the secret that all edges of the fleet share, as in `routes`.
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
        hop: str = "",
    ) -> None:
        self._lxd = lxd
        self._member = member
        self._name = f"{NAME}--{member}" if member else NAME
        self._unfinished = f"{self._name}--building"
        self._hop = hop
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
        self._pages = Pages(connect or listen, https_port, self._own_authority)
        self._lock = threading.Lock()
        self._applied = 0
        self._loaded = ""
        self._met: set[tuple[str, str, str]] = set()

    def ensure(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Create or update the edge, so that it runs at its address and ports with the current routes."""
        with self._lock:
            found = {instance.name: instance for instance in self._lxd.instances()}
            if self._unfinished in found:
                self._delete(self._unfinished)
            if ":" in self.listen or self.listen == "0.0.0.0":  # noqa: S104
                raise LxdError(
                    f"The edge listens on one IPv4 address of its host, so that it sees who asks, and not on "
                    f"{self.listen}: set edge.listen, or the address of the cluster's member, to one."
                )
            devices = _devices(self._network, self.address, self.listen, self._ports)
            recipe = hashlib.sha256(recipe_tar("edge")).hexdigest()[:12]
            if self._name not in found:
                progress("making the edge")
                self._make(devices, recipe, progress)
            elif role_of(found[self._name].config) != Role.EDGE:
                raise LxdError(f"There is an instance `{self._name}` that is not the bot's; rename or remove it.")
            elif label_of(found[self._name].config, "recipe") != recipe:
                progress("renewing the edge")
                self._lxd.start(self._name)
                self._furnish(self._name)
                self._lxd.update(self._name, {}, devices)
                self._lxd.restart(self._name)
                self._lxd.update(self._name, as_labels(recipe=recipe))
            elif found[self._name].devices != devices:
                gone = dict.fromkeys(found[self._name].devices.keys() - devices.keys())
                self._lxd.update(self._name, {}, {**devices, **gone})
            self._lxd.start(self._name)
            # A network device that was replaced has no address yet.
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
            run(self._lxd, self._name, f"ip -4 address show {NIC} | grep -q inet || systemctl restart network")
            self._pages.distrust()
        self.apply(fresh=True, partly=True)

    def remove(self) -> None:
        """Delete the edge with its certificates; no effect when there is none."""
        with self._lock:
            names = {instance.name for instance in self._lxd.instances() if role_of(instance.config) == Role.EDGE}
            for name in names & {self._name, self._unfinished}:
                self._delete(name)
            self._pages.distrust()

    @property
    def server(self) -> Lxd:
        """Return the LXD server that the edge is on; the edges of a cluster share one."""
        return self._lxd

    def has(self, name: str, instances: Sequence[Instance]) -> bool:
        """Return whether an instance is on this host; `instances`: all instances of the server."""
        return any(one.name == name for one in self._of(instances))

    def domains(self, instances: Sequence[Instance], ahead: str = "") -> dict[str, int]:
        """Return the domains that this host has, and the rank of its right to each (`bot.model.labels.right`).

        3: an open tenant; 2: a closed tenant, or an archive; 1: an open candidate; 0: a tenant that is closed for its
        candidate. `instances`: all instances of the server. `ahead`: as in `apply`; it counts as an open candidate.

        Raises LxdUnavailable when the host's cluster member is offline: its state is then unknown, and its containers
        may still serve.
        """
        here = self._of(instances)
        if self._member and any(one.status == "Error" for one in here):
            raise LxdUnavailable(f"The cluster's member {self._member} is offline.")
        return {domain: right for domain, (right, _) in _tenants(here, ahead).items()}

    def apply(
        self,
        *,
        fresh: bool = False,
        elsewhere: Mapping[str, Peer] | None = None,
        partly: bool = False,
        number: int = 0,
        ahead: str = "",
        instances: Sequence[Instance] | None = None,
    ) -> None:
        """Bring routes and certificates in line with LXD, without dropping a connection; no effect when they are.

        The edge routes to the address in a tenant's LXD configuration, whatever the tenant says about itself. A tenant
        without an address gets one now.

        Args:
            fresh: also start the edge where it does not run.
            elsewhere: the edges of the domains that other hosts have a better right to.
            partly: not every host answered, so keep existing routes to other edges that are no longer mentioned.
            number: the sequence number of a caller that read other hosts first. A call with a lower number than the
                last applied one does nothing, because it is outdated; 0: always apply.
            ahead: an instance that is about to be opened. Unless another container of its domain is open, or closed for
                another reason, the edge routes to it now, and it shows a closed page itself. Later calls go by its
                labels again.
            instances: all instances of the server, read after `number` was assigned; None: read them here.
        """
        with self._lock:
            if 0 < number < self._applied:
                return
            self._apply(fresh, elsewhere or {}, partly, ahead, instances)
            self._applied = max(number, self._applied)

    def _apply(
        self,
        fresh: bool,
        elsewhere: Mapping[str, Peer],
        partly: bool,
        ahead: str,
        instances: Sequence[Instance] | None,
    ) -> None:
        if fresh and not self._lxd.instance(self._name).running:
            # Nobody stops the edge on purpose.
            self._lxd.start(self._name)
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
        here, learned = self._sites(ahead, instances)
        kept = routes_to_peers(self._present()) if partly else {}
        config = json.dumps(
            routes(
                {**kept, **here, **elsewhere},
                base_domain=self._base_domain,
                tls=self._tls,
                email=self._email,
                https_port=self._ports["https"][0],
                hop=self._hop,
            ),
            indent=1,
        )
        # Reading the file is cheaper than the command, which is only needed where something is new.
        if not learned and config == self._loaded and config == self._present():
            return
        # Caddy may have accepted the configuration even where this fails.
        self._loaded = ""
        # The edge remembers the MAC of an address's previous tenant for up to a minute.
        load(self._lxd, self._name, config, first=("ip", "neigh", "flush", "dev", NIC) if learned else ())
        self._loaded = config

    def _present(self) -> str:
        return self._lxd.pull(self._name, CONFIG).decode()

    def probe(self, domain: str, seconds: float = PAGE_SECONDS) -> Probe:
        """Request a domain's login page through the edge, as a client would, within `seconds`."""
        return self._pages.probe(domain, seconds)

    def authority(self) -> str:
        """Return the certificate of the edge's own authority (PEM), for peers that trust it; empty: none yet."""
        try:
            return self._lxd.pull(self._name, _ROOT).decode()
        except NotFound:
            return ""

    def _own_authority(self) -> str | None:
        return self._lxd.pull(self._name, _ROOT).decode() if self._tls == "internal" else None

    def _sites(self, ahead: str, instances: Sequence[Instance] | None) -> tuple[dict[str, str], bool]:
        """Return the address of each domain, "" where it is not open, and whether any interface or address is new."""
        here = self._of(self._lxd.instances() if instances is None else instances)
        found = _tenants(here, ahead)
        if self._pin(instance for _, instance in found.values() if _is_open(instance) and not given(instance)):
            here = self._of(self._lxd.instances())
            found = _tenants(here, ahead)
        addresses = trusted(here, self._subnet)
        live = {domain: one for domain, (_, one) in found.items() if _is_open(one) or _opens(one, ahead)}
        opened = {domain: addresses.get(instance.name, "") for domain, instance in live.items()}
        for domain in sorted(domain for domain, address in opened.items() if not address):
            log.error("%s is not routed to: it has no address that is its own", live[domain].name)
        interfaces = {
            (it.name, it.config.get(f"volatile.{NIC}.hwaddr", ""), addresses.get(it.name, "")) for it in live.values()
        }
        learned, self._met = bool(interfaces - self._met), interfaces
        return {**dict.fromkeys(found, ""), **opened}, learned

    def _pin(self, nameless: Iterable[Instance]) -> bool:
        """Give an address to instances from earlier releases, which have none; return whether there were any."""
        some = False
        for instance in nameless:
            some = True
            try:
                self._lxd.pin(instance.name)
            except LxdError as error:
                # One failure must not keep the others waiting.
                log.warning("%s has no address yet: %s", instance.name, error)
        return some

    def _of(self, instances: Iterable[Instance]) -> list[Instance]:
        return [one for one in instances if not self._member or one.location == self._member]

    def _make(self, devices: Mapping[str, Mapping[str, str]], recipe: str, progress: Callable[[str], None]) -> None:
        debootstrap = self._base == "debootstrap"
        image = ensure_base(self._lxd, "edge", self._cache, progress) if debootstrap else self._base
        config = {"boot.autostart": "true", "boot.autostart.priority": "10", **as_labels(role=Role.EDGE, recipe=recipe)}
        self._lxd.create(self._unfinished, image, config=config, devices={})
        try:
            self._lxd.start(self._unfinished)
            if not debootstrap:
                install_packages(self._lxd, self._unfinished, EDGE)
            self._furnish(self._unfinished)
            first = routes({}, base_domain=self._base_domain, tls=self._tls, email=self._email)
            self._lxd.push(self._unfinished, CONFIG, json.dumps(first, indent=1).encode(), mode=0o644)
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


def _devices(
    network: str, address: str, listen: str, ports: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, str]]:
    # The port is not isolated as the tenants' ports are: the edge has to reach all tenants.
    devices = {
        NIC: {"type": "nic", "name": NIC, "network": network, "ipv4.address": address},
    }
    loopback = re.match(r"127\.|::1$|localhost$", listen)
    for name, (outside, inside) in ports.items():
        device = {"type": "proxy", "listen": f"tcp:{listen}:{outside}", "bind": "host"}
        if loopback:
            device["connect"] = f"tcp:127.0.0.1:{inside}"
        else:
            # The kernel forwards, so that Caddy sees clients' addresses.
            device |= {"nat": "true", "connect": f"tcp:{address}:{inside}"}
        devices[name] = device
    return devices


def _tenants(here: Sequence[Instance], ahead: str = "") -> dict[str, tuple[int, Instance]]:
    """Return the rank of each domain's right, as in `domains`, and the instance that has it; `ahead`: as in `apply`."""
    named = {instance.name: instance for instance in here}
    by_domain: dict[str, list[Seen]] = {}
    for instance in here:
        if domain := _domain(instance):
            by_domain.setdefault(domain, []).append(_seen(instance))
    found = {domain: (right(one), one) for domain, its in by_domain.items() if (one := holder(its))}
    tenants = {domain: (its, named[one.instance]) for domain, (its, one) in found.items() if its is not None}
    for instance in here:
        if (domain := _domain(instance)) and _opens(instance, ahead):
            its, holding = tenants.get(domain, (0, instance))
            # A tenant that is closed for its candidate keeps its right only until the candidate opens.
            if its == 0 or holding is instance:
                tenants[domain] = max(its, 1), instance
    return tenants


def _domain(instance: Instance) -> str:
    """Return an instance's domain, "" where it is invalid: Caddy would refuse all routes for one written by hand."""
    domain = label_of(instance.config, "domain")
    return domain if _DOMAIN.fullmatch(domain) else ""


def _seen(instance: Instance) -> Seen:
    return seen(instance.name, instance.config, running=instance.running)


def _is_open(instance: Instance) -> bool:
    return is_open(_seen(instance))


def _opens(instance: Instance, ahead: str) -> bool:
    """Return whether an instance is the one that is about to open: a new tenant or candidate, which closes itself."""
    stands = role_of(instance.config), state_of(instance.config)
    return instance.name == ahead and stands in _TO_BE_OPENED and instance.running
