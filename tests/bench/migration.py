"""The floor of a migration: what LXD alone takes between the stop at one host and the page at the other."""

from __future__ import annotations

import time

from bot.lxd_gateway import LxdGateway
from bot.tenants import stamps
from tests.support.lab import Node


def migration_floor(source: LxdGateway, target: LxdGateway, node: Node, name: str, domain: str) -> float:
    """Seconds of the way that cannot be shorter: stop, last snapshot, what differs, start, address, login page.

    `name` runs at the source, unsealed, and does so again at the end. What goes before the stop is not counted: the
    copy while it runs, twice. `node`: the target's machine, from within which the domain's page is asked for, as an
    edge does.
    """
    copy = f"{name}--floor"
    # No second tenant, and one that can be deleted.
    config = {"security.protection.delete": "", **stamps(role="incoming", state="", operation="")}
    source.snapshot(name, "floor-1")
    target.receive(source, name, copy, config=config, devices={})
    source.snapshot(name, "floor-2")
    target.receive(source, name, copy, config=config, devices={}, refresh=True)
    began = time.perf_counter()
    source.stop(name)
    source.snapshot(name, "floor-3")
    target.receive(source, name, copy, config=config, devices={}, refresh=True)
    target.start(copy)
    while not (address := target.state(copy).address):
        time.sleep(0.02)
    while b'name="_username"' not in node.fetch(f"http://{address}/s/login", domain):
        time.sleep(0.02)
    took = time.perf_counter() - began
    target.stop(copy, force=True)
    target.delete(copy)
    for snapshot in ("floor-1", "floor-2", "floor-3"):
        source.delete_snapshot(name, snapshot)
    source.start(name)
    return took
