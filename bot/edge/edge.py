"""The edge: one reverse proxy (Caddy, in a container of its own) with the domains and TLS of all tenants of a host."""

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

from bot.edge.caddy import Peer, routes, ways_elsewhere
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
    """The edge of one host. Safe for many threads. Longer than other classes by the arguments of what is asked of it.

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
        hop: the secret that all edges of the fleet share, as `routes` has it.
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
            # What was plugged in anew has no address.
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
            run(self._lxd, self._name, f"ip -4 address show {NIC} | grep -q inet || systemctl restart network")
            self._pages.distrust()
        self.apply(fresh=True, partly=True)

    def remove(self) -> None:
        """Take the edge away, with its certificates; no effect when it is not there."""
        with self._lock:
            names = {instance.name for instance in self._lxd.instances() if role_of(instance.config) == Role.EDGE}
            for name in names & {self._name, self._unfinished}:
                self._delete(name)
            self._pages.distrust()

    @property
    def server(self) -> Lxd:
        """The server that it is on; the edges of a cluster share one."""
        return self._lxd

    def has(self, name: str, instances: Sequence[Instance]) -> bool:
        """Whether an instance is on this host; `instances`: all of its server."""
        return any(one.name == name for one in self._of(instances))

    def domains(self, instances: Sequence[Instance], ahead: str = "") -> dict[str, int]:
        """Return the domains that this host has, and how good its right to each is: 3 by an open tenant, 2 by one that
        is closed, or an archive, 1 by an open candidate, 0 by a tenant that is closed for its candidate.

        `instances`: all of its server. `ahead`: as `apply` has it; it counts as an open candidate.

        Raises LxdUnavailable when its member of the cluster is offline: nobody knows then, and all there may go on.
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
        """Make routes and certificates what LXD says, without dropping a connection; nothing happens when they are.

        A tenant is routed to where its configuration says, whatever it tells of itself. Where it was given no address
        yet, it is now.

        Args:
            fresh: see to it that the edge runs, too.
            elsewhere: the edges of the domains that other hosts have a better right to.
            partly: not every host could be asked, so ways to others that nobody speaks of any more are kept.
            number: of those who look at other hosts first, who looked last; one who comes late does nothing.
            ahead: an instance that is about to be opened. Where no other is open, or closed for other reasons, it is
                routed to by now, and says itself that it is closed; any later call goes by its labels again.
            instances: all of its server, as they were after `number` was given; None: they are looked at here.
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
            # Nobody stops it on purpose.
            self._lxd.start(self._name)
            until(self._lxd, self._name, "test -S /run/caddy/admin.sock")
        here, learned = self._sites(ahead, instances)
        kept = ways_elsewhere(self._present()) if partly else {}
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
        # To read the file costs less than a command, which is needed where something is new.
        if not learned and config == self._loaded and config == self._present():
            return
        # Where this fails Caddy may have taken it all the same.
        self._loaded = ""
        # An address that another tenant had before is still known there by that one's MAC, for up to a minute.
        load(self._lxd, self._name, config, first=("ip", "neigh", "flush", "dev", NIC) if learned else ())
        self._loaded = config

    def _present(self) -> str:
        return self._lxd.pull(self._name, CONFIG).decode()

    def probe(self, domain: str, seconds: float = PAGE_SECONDS) -> Probe:
        """Ask for a domain's login page through the edge, as a client would, within so many seconds."""
        return self._pages.probe(domain, seconds)

    def authority(self) -> str:
        """Return the certificate of the edge's own authority (PEM), for those who are to trust it; empty: none yet."""
        try:
            return self._lxd.pull(self._name, _ROOT).decode()
        except NotFound:
            return ""

    def _own_authority(self) -> str | None:
        return self._lxd.pull(self._name, _ROOT).decode() if self._tls == "internal" else None

    def _sites(self, ahead: str, instances: Sequence[Instance] | None) -> tuple[dict[str, str], bool]:
        """Return the address of each domain, empty where it is not open, and whether somebody has one newly."""
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
    # Not isolated as the tenants' ports are: this one is to reach them all.
    devices = {
        NIC: {"type": "nic", "name": NIC, "network": network, "ipv4.address": address},
    }
    loopback = re.match(r"127\.|::1$|localhost$", listen)
    for name, (outside, inside) in ports.items():
        device = {"type": "proxy", "listen": f"tcp:{listen}:{outside}", "bind": "host"}
        if loopback:
            device["connect"] = f"tcp:127.0.0.1:{inside}"
        else:
            # By the kernel, so that Caddy sees who speaks.
            device |= {"nat": "true", "connect": f"tcp:{address}:{inside}"}
        devices[name] = device
    return devices


def _tenants(here: Sequence[Instance], ahead: str = "") -> dict[str, tuple[int, Instance]]:
    """Return each domain's right, as `domains` does, and who has it; `ahead`: who is about to, as in `apply`."""
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
            # A tenant that is closed for its candidate has no right but until that is open.
            if its == 0 or holding is instance:
                tenants[domain] = max(its, 1), instance
    return tenants


def _domain(instance: Instance) -> str:
    """Return its domain, "" where none is called so: written by hand, it would keep Caddy from all routes."""
    domain = label_of(instance.config, "domain")
    return domain if _DOMAIN.fullmatch(domain) else ""


def _seen(instance: Instance) -> Seen:
    return seen(instance.name, instance.config, running=instance.running)


def _is_open(instance: Instance) -> bool:
    return is_open(_seen(instance))


def _opens(instance: Instance, ahead: str) -> bool:
    """Whether it is the one that is about to be opened: a new tenant or a candidate, which keeps itself closed."""
    stands = role_of(instance.config), state_of(instance.config)
    return instance.name == ahead and stands in _TO_BE_OPENED and instance.running
