"""Addresses on the tenants' network, and where its traffic may go."""

import ipaddress

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from bot.lxd.protocol import Instance, LxdError
from bot.lxd.wire import CLOSED, NIC, bounds, choose, outside, rules, trusted

SUBNET = "10.70.0.1/24"


def instance(name: str, address: str = "") -> Instance:
    return Instance(name, "Running", devices={NIC: {"ipv4.address": address}} if address else {})


def covers(ranges: str, address: str) -> bool:
    ends = [[ipaddress.IPv4Address(end) for end in one.split("-")] for one in ranges.split(",")]
    return any(first <= ipaddress.IPv4Address(address) <= last for first, last in ends)


class TestChoose:
    def test_an_address_depends_on_the_name_and_is_in_the_tenants_range(self) -> None:
        assert choose(SUBNET, "a", ()) == choose(SUBNET, "a", ())
        assert len({choose(SUBNET, f"client-{number}", ()) for number in range(100)}) > 60
        first, last = bounds(SUBNET)
        assert all(first <= ipaddress.IPv4Address(choose(SUBNET, str(n), ())) <= last for n in range(500))

    def test_all_addresses_of_the_range_can_be_given_and_no_more(self) -> None:
        taken: set[str] = set()
        for number in range(239):
            taken.add(choose(SUBNET, f"client-{number}", taken))
        assert len(taken) == 239
        with pytest.raises(LxdError, match="All 239 addresses"):
            choose(SUBNET, "one-more", taken)


class TestTrusted:
    def test_an_address_that_only_one_instance_has_is_trusted(self) -> None:
        assert trusted([instance("a", "10.70.0.16"), instance("b")], SUBNET) == {"a": "10.70.0.16"}

    @pytest.mark.parametrize("address", ["10.70.0.1", "10.70.0.2", "10.70.0.255", "10.71.0.20", "169.254.169.254"])
    def test_an_address_outside_the_tenants_range_is_not_trusted(self, address: str) -> None:
        assert trusted([instance("a", address)], SUBNET) == {}

    def test_an_address_that_two_instances_have_is_not_trusted(self) -> None:
        both = [instance("a", "10.70.0.16"), instance("b", "10.70.0.16"), instance("c", "10.70.0.17")]
        assert trusted(both, SUBNET) == {"c": "10.70.0.17"}


class TestOutside:
    @for_all(st.ip_addresses(v=4), st.lists(st.ip_addresses(v=4), max_size=4))
    def test_the_outside_is_all_that_is_not_closed(self, address: object, hosts: list[object]) -> None:
        closed = any(ipaddress.IPv4Address(str(address)) in ipaddress.IPv4Network(one) for one in CLOSED)
        assert covers(outside(map(str, hosts)), str(address)) == (not closed and address not in hosts)

    @pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "10.70.0.1", "192.168.1.10", "127.0.0.1"])
    def test_metadata_and_private_networks_are_closed(self, address: str) -> None:
        assert not covers(outside([]), address)

    @pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "203.0.113.80", "192.0.2.10", "223.255.255.254"])
    def test_public_addresses_are_open(self, address: str) -> None:
        assert covers(outside([]), address)


class TestRules:
    def test_a_host_is_closed_at_its_public_address_too(self) -> None:
        _, _, way = rules(SUBNET, ["198.51.100.7"], [])
        assert not covers(way["destination"], "198.51.100.7")
        assert covers(way["destination"], "198.51.100.8")

    def test_a_bridge_with_public_addresses_does_not_belong_to_the_outside(self) -> None:
        way = rules("203.0.113.1/24", [], [])[-1]
        assert not covers(way["destination"], "203.0.113.77")

    def test_addresses_that_the_settings_open_are_open_to_tenants_only(self) -> None:
        opened = rules(SUBNET, [], ["10.0.0.25:25", "10.1.0.0/16"])[3:]
        tenants = {"action": "allow", "state": "enabled", "source": "10.70.0.16-10.70.0.254"}
        smtp = {**tenants, "destination": "10.0.0.25", "destination_port": "25"}
        assert opened == [
            {**smtp, "protocol": "tcp"},
            {**smtp, "protocol": "udp"},
            {**tenants, "destination": "10.1.0.0/16"},
        ]

    def test_tenants_reach_only_the_web_ports_of_the_edge(self) -> None:
        _, way, _ = rules(SUBNET, [], [])
        assert (way["destination"], way["protocol"], way["destination_port"]) == (
            "10.70.0.2-10.70.0.15",
            "tcp",
            "80,443",
        )
        around = rules("10.70.0.5/24", [], [])[1]["destination"]
        assert (covers(around, "10.70.0.2"), covers(around, "10.70.0.5")) == (True, False), "the bridge is the host"
