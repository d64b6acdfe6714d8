"""The tenants' network: which address an instance was given, and where its traffic may go; pure.

The bot assigns the addresses. They are kept in LXD's configuration of the instance, where nobody inside can write. The
bot never relies on what an instance says about itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bot.lxd.protocol import Instance, LxdError, edge_address
from bot.model.labels import as_labels, label_of

NIC = "eth0"
"""The name of an instance's only network interface, both of the LXD device and inside."""
FILTERS = {
    "security.port_isolation": "true",
    "security.mac_filtering": "true",
    "security.ipv4_filtering": "true",
    "security.ipv6_filtering": "true",
}
"""A tenant's port exchanges traffic only with the bridge and the edge, and only under its own MAC and address. All IPv6
is blocked, which the bot's bridge does not use: a single message could otherwise make a tenant everybody's router."""
CLOSED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    # Azure's servers read secrets from this address, as those of other clouds do from 169.254.169.254.
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
"""What is not the outside: private and provider networks, link-local, test networks, multicast."""


def given(instance: Instance) -> str:
    """Return the address that an instance was given, or "" while it has none."""
    return instance.devices.get(NIC, {}).get("ipv4.address", "")


def taken_off(instance: Instance) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and the device that take an instance off the network, whatever is inside.

    The instance then has no interface. LXD 5.0 could also filter everything (`ipv4.address` and `ipv6.address` are
    `none`), but writes that so that it cannot read it again, and starts no container with a filter any more.
    """
    before = dict(instance.devices.get(NIC, {}))
    return as_labels(network_before=json.dumps(before)), {"type": "none"}


def put_back(config: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str] | None] | None:
    """Return the labels and the device that put an instance back on the network; None where it is on it.

    LXD gives the instance a new MAC, whatever the device says.
    """
    before = label_of(config, "network-before")
    if not before:
        return None
    try:
        device = json.loads(before)
    except ValueError:
        device = None
    # Somebody may have edited the label: then it counts as not set.
    return (as_labels(network_before=""), device or None) if isinstance(device, dict) else None


def kept(config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> str:
    """Return the address that belongs to an instance, also while it is off the network and does not use it."""
    before = put_back(config)
    device = (before[1] or {}) if before else devices.get(NIC, {})
    return device.get("ipv4.address", "")


def bounds(subnet: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """Return the first and last address for tenants; those below are reserved for the bridge and the edge.

    Raises LxdError for an invalid subnet, or one that is too small.
    """
    edge_address(subnet)
    network = ipaddress.IPv4Interface(subnet).network
    return network[16], network[-2]


def is_tenants(address: str, subnet: str) -> bool:
    """Return whether an address is in the tenants' range."""
    first, last = bounds(subnet)
    try:
        return first <= ipaddress.IPv4Address(address) <= last
    except ValueError:
        return False


def choose(subnet: str, name: str, taken: Collection[str]) -> str:
    """Return a free address for the instance of this name: the one derived from the name, or the next free one.

    The name decides so that an address is not reused soon after its owner is deleted: neighbours remember it for a
    while. Raises LxdError when all are taken.
    """
    first, last = bounds(subnet)
    size = int(last) - int(first) + 1
    begin = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % size
    for step in range(size):
        address = str(first + (begin + step) % size)
        if address not in taken:
            return address
    raise LxdError(
        f"All {size} addresses of the bridge are given: purge archived tenants, or give it a larger `lxd.subnet`."
    )


def trusted(instances: Iterable[Instance], subnet: str) -> dict[str, str]:
    """Return the address of each instance that may be routed to: given to it alone, and in the tenants' range."""
    addresses = {instance.name: given(instance) for instance in instances}
    shared = Counter(addresses.values())
    return {
        name: address
        for name, address in addresses.items()
        if address and shared[address] == 1 and is_tenants(address, subnet)
    }


def outside(closed: Iterable[str]) -> str:
    """Return all IPv4 addresses except CLOSED and `closed`, as LXD writes ranges: `1.0.0.0-9.255.255.255,…`."""
    begin, ranges = 0, []
    for network in ipaddress.collapse_addresses(ipaddress.IPv4Network(one) for one in {*CLOSED, *closed}):
        if begin < int(network[0]):
            ranges.append(f"{ipaddress.IPv4Address(begin)}-{network[0] - 1}")
        begin = int(network[-1]) + 1
    if begin < 1 << 32:
        ranges.append(f"{ipaddress.IPv4Address(begin)}-255.255.255.255")
    return ",".join(ranges)


def rules(subnet: str, own: Iterable[str], open_: Iterable[str]) -> list[dict[str, str]]:
    """Return where traffic from the bridge may go, as the rules of an ACL that rejects all else.

    The addresses below the tenants' are the edge's, and may go anywhere. At these, tenants reach only ports 80 and 443.

    Args:
        own: the host's addresses, which are closed even where they are public.
        open_: the exceptions, written as in `egress.open`: `10.0.0.25:25`, `10.1.0.0/16`.
    """
    tenants = "-".join(map(str, bounds(subnet)))
    bridge = ipaddress.IPv4Interface(subnet)
    network = bridge.network
    ends = ((network[1], bridge.ip - 1), (bridge.ip + 1, network[15]))
    ours = ",".join(f"{first}-{last}" for first, last in ends if first <= last)
    ways: list[Mapping[str, str]] = [
        {"source": ours},
        {"source": tenants, "destination": ours, "protocol": "tcp", "destination_port": "80,443"},
        {"source": tenants, "destination": outside([*own, str(network)])},
    ]
    for target in open_:
        address, _, port = target.partition(":")
        way = {"source": tenants, "destination": address}
        ways += [{**way, "protocol": kind, "destination_port": port} for kind in ("tcp", "udp")] if port else [way]
    return [{"action": "allow", "state": "enabled", **way} for way in ways]


def differs(present: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return those wanted keys whose present value is another ("": absent)."""
    return {key: value for key, value in wanted.items() if present.get(key, "") != value}
