"""A tenant whose root is an attacker is still stopped and closed, on a real server."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import pytest

from bot.fleet import containment
from bot.fleet.inventory import Host
from bot.fleet.starts import StartLimiter
from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import PoolFull
from bot.model.labels import as_labels
from tests.support.pools import count_anew
from tests.support.real_lxd import PROJECT, TINY
from tests.support.workspace import eventually

Name = Callable[[], str]

DEAF = b"""#!/bin/sh
trap '' PWR TERM INT
ip link set lo up
httpd -f -p 80 -h /srv/www &
udhcpc -f -t 20 -T 1 -A 1 -i eth0 -s /etc/lease > /dev/null 2>&1 &
while :; do sleep 1000 & wait $!; done
"""
SAYS_NO = b"""#!/bin/sh
echo '{"ok": false, "error": "no"}'
exec sleep 60
"""
LIES = b"""#!/bin/sh
echo '{"ok": true}'
exec sleep 60
"""


@pytest.fixture
def host(real_lxd: LxdGateway) -> Host:
    """The tests' server as a host."""
    return Host("local", "local", real_lxd, Mautic(real_lxd), StartLimiter(1, 0))


def _run(lxd: LxdGateway, name: str) -> str:
    """Start an instance, and return its address once its page is there."""
    lxd.start(name)
    assert eventually(lambda: lxd.state(name).address)
    address = lxd.state(name).address
    assert eventually(lambda: _page(address))
    return address


def _page(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/", timeout=1) as answer:
            return bool(answer.read() == b"ok\n")
    except OSError:
        return False


def _gets_out(lxd: LxdGateway, name: str) -> bool:
    """Return whether an instance reaches the bridge's name server, which all tenants may ask."""
    gateway = lxd.subnet().partition("/")[0]
    return lxd.execute(name, ["sh", "-c", f"nc -w 3 {gateway} 53 < /dev/null"]).code == 0


def test_a_container_that_ignores_its_shutdown_is_stopped_by_force(real_lxd: LxdGateway, real_name: Name) -> None:
    """Its init ignores the shutdown signal, as with `halt.target` masked."""
    name = real_name()
    real_lxd.create(name, TINY, config={}, devices={})
    real_lxd.push(name, "/sbin/init", DEAF, mode=0o755)
    real_lxd.start(name)
    assert "by force" in (containment.stop(real_lxd, name, peace=2) or "")
    assert real_lxd.instance(name).status == "Stopped"


@pytest.mark.parametrize("tool", [SAYS_NO, LIES], ids=["says no", "lies"])
def test_an_uncooperative_tenant_stays_closed_over_restarts_until_it_is_reconnected(
    host: Host, real_name: Name, tool: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containment, "LEASE", 2.0)
    lxd, name = host.lxd, real_name()
    assert isinstance(lxd, LxdGateway)
    lxd.create(name, TINY, config={}, devices={})
    lxd.push(name, "/usr/bin/python3", tool, mode=0o755)
    address = _run(lxd, name)
    assert _gets_out(lxd, name)
    before = lxd.instance(name).devices
    told = containment.close(host, name)
    assert bool(told) == (tool is SAYS_NO)
    assert not _page(address)
    assert not _gets_out(lxd, name)
    lxd.stop(name, force=True)
    lxd.start(name)
    assert not _page(address)
    assert not _gets_out(lxd, name)
    containment.reconnect(host, name)
    assert eventually(lambda: _page(lxd.state(name).address or address))
    assert lxd.instance(name).devices == before


def test_a_full_tenant_is_labelled_closed_stopped_and_archived(host: Host, real_name: Name) -> None:
    lxd, name, archived = host.lxd, real_name(), real_name()
    assert isinstance(lxd, LxdGateway)
    root = {"type": "disk", "path": "/", "pool": PROJECT, "size": "32MiB"}
    lxd.create(name, TINY, config={}, devices={"root": root})
    address = _run(lxd, name)
    # A kernel that has stopped counting would let it fill the pool.
    count_anew(lxd)
    fill = "dd if=/dev/urandom of=/big bs=64k; sync; for i in $(seq 200); do echo x > /small.$i || break; done; sync"
    lxd.execute(name, ["sh", "-c", fill])
    with pytest.raises(PoolFull):
        lxd.push(name, "/more", b"x" * (1 << 20))
    lxd.update(name, as_labels(state="suspended"))
    assert lxd.instance(name).config["user.mautic-ops.state"] == "suspended"
    containment.close(host, name)
    assert not _page(address)
    containment.stop(lxd, name, peace=5)
    assert lxd.instance(name).status == "Stopped"
    lxd.update(name, as_labels(role="archived"))
    lxd.rename(name, archived)
    assert name not in {one.name for one in lxd.instances()}
    assert lxd.instance(archived).config["user.mautic-ops.role"] == "archived"
    lxd.delete(archived)


def test_a_frozen_container_is_started_and_stopped(real_lxd: LxdGateway, real_name: Name) -> None:
    name = real_name()
    real_lxd.create(name, TINY, config={}, devices={})
    real_lxd.start(name)
    real_lxd.freeze(name)
    assert real_lxd.instance(name).status == "Frozen"
    real_lxd.start(name)
    assert real_lxd.instance(name).status == "Running"
    real_lxd.freeze(name)
    containment.stop(real_lxd, name, peace=2)
    assert real_lxd.instance(name).status == "Stopped"
