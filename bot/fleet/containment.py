"""Stops and closes a tenant, whether the tenant cooperates or not.

A clean stop is tried first, because it is best for the tenant's data. An attacker who controls a tenant can refuse a
request, accept it and carry on, or not answer. So everything that counts is enforced from outside, by LXD and the edge.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bot.fleet.inventory import Host
from bot.lxd.protocol import Lxd, LxdError, LxdUnavailable
from bot.model.labels import label_of

log = logging.getLogger(__name__)

PEACE = 60
"""Seconds that a container may take to shut down by itself, or its tool to close it."""
LEASE = 10.0
"""Seconds within which a container that is back on the network should get an address; otherwise it is restarted."""


def stop(lxd: Lxd, instance: str, *, peace: int = PEACE) -> str | None:
    """Stop a container, by force where it does not shut down by itself; then return a sentence that says so."""
    try:
        lxd.stop(instance, timeout=peace)
    except LxdError as error:
        log.warning("%s did not end by itself: %s", instance, error)
        lxd.stop(instance, force=True)
        return f"by force: it did not end by itself within {peace} s"
    return None


def close(host: Host, instance: str) -> str | None:
    """Cut a running tenant off from the outside: no cron jobs, no mail, and no network.

    Its own tool is asked first to stop all work inside, so that nothing fails for lack of a network. The network is cut
    whatever the tool answers. Returns a sentence where the tool failed, else None.
    """
    told = None
    try:
        host.mautic.close(instance, "suspend", timeout=PEACE)
    except LxdError as error:
        log.warning("%s did not close itself: %s", instance, error)
        told = "it did not close itself; its network was cut all the same"
    host.lxd.isolate(instance)
    return told


@contextmanager
def ignoring_refusal() -> Iterator[None]:
    """Ignore that a tenant refuses to reopen itself: it is handed back as it is. LxdUnavailable is still raised."""
    try:
        yield
    except LxdUnavailable:
        raise
    except LxdError as error:
        log.warning("a tenant that is given back does not agree: %s", error)


def is_closed(lxd: Lxd, instance: str) -> bool:
    """Return whether the network of an instance is cut, so that it has no address."""
    return bool(label_of(lxd.instance(instance).config, "network-before"))


def reconnect(host: Host, instance: str) -> None:
    """Give a closed tenant its network back, before anything in it works again; no effect where it has its network."""
    if not is_closed(host.lxd, instance):
        return
    host.lxd.rejoin(instance)
    give_up = time.monotonic() + LEASE
    while not host.lxd.state(instance).address:
        if time.monotonic() > give_up:
            # The DHCP client inside may have given up while the network was cut.
            stop(host.lxd, instance)
            host.start(instance, urgent=True)
            return
        time.sleep(0.05)
