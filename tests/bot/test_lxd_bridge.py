"""The gateway on hosts that cannot do all that the bot asks of their bridge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from bot.lxd.bridge import Bridge
from bot.lxd.connection import LxdConnection
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import Instance, LxdError
from bot.lxd.refusals import AddressTaken
from bot.lxd.wire import FILTERS, NIC

REFUSED = (
    'LXD could not start `t`: Failed to start device "eth0": security.ipv6_filtering requires bridge netfilter: '
    "br_netfilter is not loaded."
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The network device of the only instance on a server whose kernel cannot filter IPv6 on a bridge."""
    nic = {"type": "nic", "ipv4.address": "10.70.0.20", "ipv6.address": "none", **FILTERS}

    def change(*_: Any, **__: Any) -> None:
        if nic.get("security.ipv6_filtering") == "true":
            raise LxdError(REFUSED)

    def update(_: Any, name: str, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        nic.clear()
        nic.update(devices[NIC])

    monkeypatch.setattr(LxdConnection, "change", change)
    monkeypatch.setattr(LxdGateway, "instance", lambda *_: Instance("t", "Stopped", devices={NIC: nic}))
    monkeypatch.setattr(LxdGateway, "update", update)
    return nic


def test_where_ipv6_cannot_be_filtered_a_tenant_starts_with_all_other_filters(server: dict[str, str]) -> None:
    LxdGateway("/nowhere").start("t")
    rest = {key: value for key, value in FILTERS.items() if key != "security.ipv6_filtering"}
    assert server == {"type": "nic", "ipv4.address": "10.70.0.20", **rest}


def test_the_refusal_is_raised_where_ipv6_is_not_filtered_anyway(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server["security.ipv6_filtering"] = "false"
    monkeypatch.setattr(LxdConnection, "change", lambda *_, **__: _refuse())
    with pytest.raises(LxdError, match="requires bridge netfilter"):
        LxdGateway("/nowhere").start("t")


def _refuse() -> None:
    raise LxdError(REFUSED)


def test_two_neighbouring_addresses_that_are_taken_are_tried_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """All refused addresses have to be remembered: the last one alone does not say that the one before is taken too."""
    asked: list[list[str]] = []
    nic = {"type": "nic", "ipv4.address": "10.70.0.20"}

    def change(*_: Any, **__: Any) -> None:
        if len(asked) < 3:
            raise AddressTaken("LXD could not start `t`.")

    @contextmanager
    def address(
        _: Any, name: str, there: Sequence[Instance], host: str, refused: Sequence[str]
    ) -> Iterator[dict[str, str]]:
        asked.append(list(refused))
        yield {"type": "nic", "ipv4.address": f"10.70.0.{30 + len(asked)}"}

    def update(_: Any, name: str, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str] | None]) -> None:
        nic.update(devices[NIC] or {})

    monkeypatch.setattr(LxdConnection, "change", change)
    monkeypatch.setattr(Bridge, "address", address)
    monkeypatch.setattr(LxdGateway, "instance", lambda *_: Instance("t", "Stopped", devices={NIC: dict(nic)}))
    monkeypatch.setattr(LxdGateway, "instances", lambda *_: [])
    monkeypatch.setattr(LxdGateway, "update", update)
    LxdGateway("/nowhere").start("t")
    assert asked == [
        ["10.70.0.20"],
        ["10.70.0.20", "10.70.0.31"],
        ["10.70.0.20", "10.70.0.31", "10.70.0.32"],
    ]
