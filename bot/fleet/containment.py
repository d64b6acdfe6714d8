"""Stops and closes a tenant, whether the tenant cooperates or not.

In peace first, since that is best for its data. Whoever has taken a tenant over may say no, say yes and go on, or say
nothing: so what counts is done from outside, by LXD and the edge.
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
"""Seconds that a container may take to end by itself, or its tool to close it."""
LEASE = 10.0
"""Seconds after which one that is back on the network should have an address, or is started anew to get one."""


def stop(lxd: Lxd, instance: str, *, peace: int = PEACE) -> str | None:
    """Stop a container, by force where it does not end by itself; say so then."""
    try:
        lxd.stop(instance, timeout=peace)
    except LxdError as error:
        log.warning("%s did not end by itself: %s", instance, error)
        lxd.stop(instance, force=True)
        return f"by force: it did not end by itself within {peace} s"
    return None


def close(host: Host, instance: str) -> str | None:
    """Let a running tenant do nothing more for anybody outside: no crons, no mails, and no network.

    Its own tool is asked to end what works in it, so that nothing fails for want of a network; whether it did or says
    so, the network is taken from it.
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
def unless_it_says_no() -> Iterator[None]:
    """Pass over a tenant that does not take back what it was asked to do: it is given back as it is."""
    try:
        yield
    except LxdUnavailable:
        raise
    except LxdError as error:
        log.warning("a tenant that is given back does not agree: %s", error)


def is_closed(lxd: Lxd, instance: str) -> bool:
    """Whether the network of an instance is cut, so that it has no address."""
    return bool(label_of(lxd.instance(instance).config, "network-before"))


def let_out(host: Host, instance: str) -> None:
    """Give a closed tenant its network back, before anything in it works again; no effect where it has it."""
    if not is_closed(host.lxd, instance):
        return
    host.lxd.rejoin(instance)
    give_up = time.monotonic() + LEASE
    while not host.lxd.state(instance).address:
        if time.monotonic() > give_up:
            # What asks for an address may have given up while nobody answered.
            stop(host.lxd, instance)
            host.start(instance, urgent=True)
            return
        time.sleep(0.05)
