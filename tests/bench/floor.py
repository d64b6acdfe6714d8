"""What LXD alone takes: a page after a start, and a migration from the stop at one host to the page at the other."""

from __future__ import annotations

import time

from bot.lxd.gateway import LxdGateway
from bot.model.labels import stamps
from tests.support.workspace import eventually

PATIENCE = 120.0
"""Seconds after which a start is taken to have failed."""


def login_page(lxd: LxdGateway, name: str, domain: str = "localhost") -> bool:
    """Whether the login page is there, asked for inside as by an edge with HTTPS: a Mautic leads plain HTTP to it."""
    get = ["curl", "--silent", "--fail", "--max-time", "10", "--unix-socket", "/run/nginx-inside.sock"]
    headers = ["--header", "X-Forwarded-Proto: https", "--header", f"Host: {domain}"]
    return 'name="_username"' in lxd.execute(name, [*get, *headers, "http://localhost/s/login"]).stdout


def migration_floor(source: LxdGateway, target: LxdGateway, name: str, domain: str) -> float:
    """Seconds of the way that cannot be shorter: stop, last snapshot, what differs, start, address, login page.

    `name` runs at the source, unsealed, and does so again at the end. What goes before the stop is not counted: the
    copy while it runs, twice.
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
    eventually(lambda: target.state(copy).address, PATIENCE)
    eventually(lambda: login_page(target, copy, domain), PATIENCE)
    took = time.perf_counter() - began
    target.stop(copy, force=True)
    target.delete(copy)
    for snapshot in ("floor-1", "floor-2", "floor-3"):
        source.delete_snapshot(name, snapshot)
    source.start(name)
    return took
