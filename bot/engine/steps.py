"""Steps, checks and waits that several commands share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from bot.engine.context import Context, Edge, Run
from bot.fleet.containment import is_closed
from bot.fleet.health import is_full, larger_plans, last_known, more_of
from bot.lxd.protocol import Lxd, LxdError, LxdUnavailable, size_bytes
from bot.model.plan import Refused, Step
from bot.model.tenants import Tenant
from bot.model.text import seconds
from bot.model.text import size as in_words
from bot.store import metrics

T = TypeVar("T")

DEADLINE = 90.0
"""Seconds within which a container must get an address, and the same again for its login page."""
PROBE = "probe"
"""Key of the step that checks the login page through the edge: the commit point."""
CLOSE = "close"
"""Key of the step that closes a tenant."""
PATIENCE = 300.0
"""Seconds for which the bot retries an unreachable host while a tenant depends on the operation."""


def patiently(work: Callable[[], T]) -> T:
    """Call `work`, and repeat it while a host is unreachable, so `work` has to look before it acts.

    Raises LxdUnavailable after PATIENCE seconds.
    """
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except LxdUnavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(1)


def refuse_another(context: Context, found: Tenant) -> None:
    """Raise Refused when a later operation has replaced or changed the container that was approved."""
    if context.operation and context.operations.came_after(found.made_by, context.operation):
        raise Refused(
            f"`{found.instance}` is no longer what was approved: request #{found.operation} came later. Please request "
            "the change again."
        )


def refuse_full(context: Context, found: Tenant) -> None:
    """Raise Refused when a tenant's disk is full: it would neither stop cleanly nor start, and needs more disk first.

    The disk of a running tenant is measured now, which is slow. In a batch, or for a stopped tenant, the last reading
    counts. If the disk cannot be measured, nothing is refused, because the requested change may be the remedy.
    """
    host, size = context.fleet.of(found), context.settings.plans.get(found.plan)
    disk = last_known(found, metrics.disks(context.database).get(found.name), size, context.now())
    if found.status == "Running" and not context.many:
        try:
            disk = host.mautic.disk(found.instance, size, usage=host.lxd.state(found.instance).disk)
        except LxdError:
            return
    if is_full(disk) and disk and disk.used is not None:
        memory = size_bytes(size.memory) if size else 0
        more = more_of("disk", found.name, larger_plans(context.settings.plans, disk.limit or 0, memory, found.plan))
        raise Refused(
            f"The disk of `{found.name}` is full ({in_words(disk.used)} of {in_words(disk.limit or 0)}), and the "
            f"tenant would not start again; first {more}."
        )


def remove(lxd: Lxd, instance: str, given_up: Callable[[], bool] = lambda: False) -> None:
    """Delete an instance, running or not, despite its deletion protection; stop between two calls once `given_up`."""
    calls: tuple[Callable[[], None], ...] = (
        lambda: lxd.stop(instance, force=True),
        lambda: lxd.update(instance, {"security.protection.delete": None}),
        lambda: lxd.delete(instance),
    )
    for call in calls:
        if given_up():
            return
        call()


def wait_for_address(lxd: Lxd, instance: str) -> None:
    """Wait until a started instance has an address, which the edge needs for routing; a closed one gets none.

    Raises LxdError after DEADLINE seconds.
    """
    give_up = time.monotonic() + DEADLINE
    while not lxd.state(instance).address:
        if is_closed(lxd, instance):
            return
        if time.monotonic() > give_up:
            raise LxdError(f"`{instance}` got no address within {DEADLINE:.0f} s; is the bridge's DHCP running?")
        time.sleep(0.05)


def away(run: Run, until: float) -> list[str]:
    """Return one phrase that says how long clients saw the maintenance page, or [] if they did not see it.

    `until`: when it ended, in epoch seconds; 0: nothing is said.
    """
    closed = next((one.started for one in run.operations.get(run.operation).steps if one.key == CLOSE), None)
    return [f"clients saw the maintenance page for {seconds(until - closed)}"] if closed and until else []


def probing(work: Callable[[], str | None]) -> Step:
    """Return the step that checks the login page through the edge."""
    return Step(PROBE, "Check the login page", work)


def see_login_page(edge: Edge, domain: str) -> str:
    """Wait until the login page answers through the edge, and return how long the last request took, in words.

    Raises LxdError after DEADLINE seconds.
    """
    give_up = time.monotonic() + DEADLINE
    while not (seen := edge.probe(domain)).login:
        if time.monotonic() > give_up:
            why = seen.error or f"HTTP {seen.status}"
            raise LxdError(f"The login page of `{domain}` did not answer within {DEADLINE:.0f} s ({why}).")
        time.sleep(0.05)
    return f"login page in {seen.seconds:.2f} s"
