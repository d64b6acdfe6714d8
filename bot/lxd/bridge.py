"""The bot's bridge on one LXD server: its configuration, its rules, and which instance gets which address."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import urlsplit

from bot.lxd.connection import SHORT, LxdConnection
from bot.lxd.protocol import Instance, LxdError, NotFound
from bot.lxd.wire import FILTERS, NIC, bounds, choose, differs, kept, rules

_DNSMASQ = ("dhcp-ignore-names", "dhcp-ignore=tag:!known")
"""With the DNS mode `dynamic`, nobody on the bridge can look up the names of other clients by their addresses. Nor can
anybody use up the addresses with requests from made-up MACs: only the MACs that LXD knows get one.

LXD 5.0 with the mode `none` writes a configuration that it cannot read again, so that containers with a filter no
longer start.
"""
PROFILE = {"security.syscalls.deny": "add_key errno 38\nkeyctl errno 38\nrequest_key errno 38"}
"""Configuration of the profile. All containers share one range of UIDs, so the kernel counts their keys together: a
tenant that created as many as allowed would leave none for the others. Without these system calls there are no keys
(ENOSYS, as under Docker). Separate ranges (`security.idmap.isolated`) would cost each clone 5 s, since LXD 5.0 rewrites
its files."""
_UNFILTERED = "requires bridge netfilter"
"""What LXD says where the host's kernel does not let it filter IPv6 (`br_netfilter` is not loaded)."""
_FOR = 60.0
"""Seconds for which the bridge and the profile are cached; on a big fleet LXD takes long to return them."""


class Bridge:
    """The bot's bridge on one server. Safe for many threads."""

    def __init__(self, connection: LxdConnection, network: str, profile: str) -> None:
        self._lxd = connection
        self._network = network
        self._profile = profile
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._known: tuple[float, str, Mapping[str, str]] | None = None

    # -- addresses ----------------------------------------------------------------------------------------------

    def subnet(self) -> str:
        """Return the bridge's address with its network; raises NotFound where there is no bridge."""
        doing = f"look at the bridge `{self._network}`"
        found = self._lxd.get(f"networks/{self._network}", doing, project=False)
        return str(found["config"].get("ipv4.address", ""))

    @contextmanager
    def address(
        self, name: str, instances: Sequence[Instance], location: str, refused: Collection[str] = ()
    ) -> Iterator[dict[str, str]]:
        """Reserve an address that no instance has while one is given it; yield the device with that address.

        In a cluster the address is free on all members, if any is: somebody may move an instance without the bot.
        """
        subnet, nic = self._known_now()
        others = [instance for instance in instances if instance.name != name]
        here = [instance for instance in others if location in ("", instance.location)]
        with self._lock:
            taken = {*refused, *self._held}
            try:
                address = choose(subnet, name, taken.union(map(_own, others)))
            except LxdError:
                address = choose(subnet, name, taken.union(map(_own, here)))
            self._held.append(address)
        try:
            yield {**nic, "ipv4.address": address}
        finally:
            with self._lock:
                self._held.remove(address)

    def leased(self, mac: str, instances: Iterable[Instance]) -> dict[str, str] | None:
        """Return the device that keeps the address which LXD's DHCP leased to this MAC.

        None where there is no such lease, or another instance has the address. A port passes only its own MAC, and only
        the address that LXD has for that MAC, so no other instance can have requested the lease.
        """
        subnet, nic = self._known_now()
        first, last = bounds(subnet)
        # Only the project's own list has the leases of its instances.
        for lease in self._lxd.get(f"networks/{self._network}/leases", "read the leases"):
            address = lease["address"]
            if lease["hwaddr"] == mac and ":" not in address and first <= IPv4Address(address) <= last:
                return None if address in map(_own, instances) else {**nic, "ipv4.address": address}
        return None

    def _known_now(self) -> tuple[str, Mapping[str, str]]:
        known = self._known
        if known is None or time.monotonic() - known[0] > _FOR:
            profile = self._lxd.get(f"profiles/{self._profile}", f"read the profile `{self._profile}`")
            known = time.monotonic(), self.subnet(), {**self.device(), **profile["devices"].get(NIC, {})}
            self._known = known
        return known[1:]

    # -- isolation of the tenants -------------------------------------------------------------------------------

    def device(self) -> dict[str, str]:
        """Return a tenant's network interface, as the profile has it."""
        return {"type": "nic", "name": NIC, "network": self._network, **FILTERS}

    def config(self, subnet: str, *, acl: bool) -> dict[str, str]:
        """Return the configuration of a new bridge. `acl`: the server supports ACLs on bridges."""
        first, last = bounds(subnet)
        new = {"ipv4.address": subnet, "ipv4.nat": "true", "ipv4.dhcp.ranges": f"{first}-{last}"}
        return {**new, "ipv6.address": "none", **self._lasting(acl)}

    def _lasting(self, acl: bool) -> dict[str, str]:
        lasting = {"dns.mode": "dynamic", "raw.dnsmasq": "\n".join(_DNSMASQ)}
        if acl:
            lasting |= {
                "security.acls": self._network,
                "security.acls.default.egress.action": "reject",
                "security.acls.default.ingress.action": "allow",
            }
        return lasting

    def acl(self, subnet: str, members: Iterable[str], ways: Sequence[str]) -> dict[str, Any]:
        """Return the ACL of the bridge. `members`: the URLs of the server and of the members of its cluster."""
        hosts = {urlsplit(address).hostname or "" for address in members} | self._own()
        egress = rules(subnet, {host for host in hosts if host and ":" not in host}, ways)
        return {"name": self._network, "egress": egress}

    def isolates_tenants(self) -> bool:
        """Return whether the bridge itself is as `align` leaves it."""
        doing = f"look at the bridge `{self._network}`"
        found = self._lxd.get(f"networks/{self._network}", doing, project=False)["config"]
        lines, wanted = found.get("raw.dnsmasq", "").splitlines(), self._lasting(acl=True)
        del wanted["raw.dnsmasq"]
        return not differs(found, wanted) and set(_DNSMASQ) <= {*lines}

    def align(self, acl: Mapping[str, Any] | None) -> None:
        """Lay the settings that keep tenants in over an existing bridge, its rules and the profile."""
        if acl is not None:
            self._align_rules(acl)
        path = f"networks/{self._network}"
        found = self._lxd.get(path, f"look at the bridge `{self._network}`", project=False)["config"]
        wanted = self._lasting(acl is not None)
        # Lines that an administrator added stay.
        lines = found.get("raw.dnsmasq", "").splitlines()
        wanted["raw.dnsmasq"] = "\n".join([*lines, *(line for line in _DNSMASQ if line not in lines)])
        if changed := differs(found, wanted):
            doing = f"keep the tenants of the bridge `{self._network}` in"
            self._lxd.request("patch", path, doing, json={"config": changed}, project=False, timeout=SHORT)
        self._align_profile()

    def _align_rules(self, acl: Mapping[str, Any]) -> None:
        path, doing = f"network-acls/{self._network}", "renew the rules of the bridge"
        found = self._lxd.get(path, doing, project=False)
        present = [{key: value for key, value in rule.items() if value} for rule in found["egress"]]
        if sorted(map(sorted, map(dict.items, present))) != sorted(map(sorted, map(dict.items, acl["egress"]))):
            body = {key: found[key] for key in ("config", "description", "ingress")} | {"egress": acl["egress"]}
            self._lxd.request("put", path, doing, json=body, project=False, timeout=SHORT)

    def _align_profile(self) -> None:
        path, doing = f"profiles/{self._profile}", f"renew the profile `{self._profile}`"
        found = self._lxd.get(path, doing)
        nic, config = found["devices"].get(NIC, {}), differs(found["config"], PROFILE)
        for wanted in (self.device(), {**self.device(), "security.ipv6_filtering": "false"}):
            if not config and not differs(nic, wanted):
                break
            body = {"config": config, "devices": {NIC: {**nic, **wanted}}}
            try:
                self._lxd.request("patch", path, doing, json=body, timeout=SHORT)
                break
            except LxdError as error:
                if not unfiltered(error):
                    raise
        self._known = None

    def _own(self) -> set[str]:
        """Return the IPv4 addresses of the host's interfaces; in a cluster, of the member that answers."""
        found: set[str] = set()
        for network in self._lxd.get("networks", "list the networks", {"recursion": "1"}, project=False):
            # The host's ends of container interfaces have no addresses.
            if network["type"] == "unknown" or network["name"].startswith("veth"):
                continue
            with suppress(NotFound):
                path = f"networks/{network['name']}/state"
                state = self._lxd.get(path, "read the host's addresses", project=False)
                found |= {one["address"] for one in state["addresses"] or () if one["family"] == "inet"}
        return found


def _own(instance: Instance) -> str:
    return kept(instance.config, instance.devices)


def unfiltered(error: LxdError) -> bool:
    """Return whether LXD refused only because its host cannot filter IPv6."""
    return _UNFILTERED in str(error)
