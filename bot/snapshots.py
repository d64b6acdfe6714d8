"""Taking snapshots of tenants, of one consistent state, with who and why on each."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

from bot.mautic import Hold
from bot.messages import seconds
from bot.registry import Context
from bot.tenants import Tenant, stamp, stamps


def take(context: Context, tenant: Tenant, *, why: str, note: str = "", keep: bool = False) -> str:
    """Take the operation's snapshot of a tenant, once, and say what it is called and how long writes waited.

    Args:
        why: `asked`, `schedule`, or what it comes before, such as `before restore 17`.
        keep: it is protected from being pruned.
    """
    host = context.fleet.of(tenant)
    for known in host.lxd.snapshots(tenant.instance):
        if stamp(known.config, "operation") == str(context.operation):
            return f"{known.name} was taken already"
    name = f"s-{datetime.fromtimestamp(context.now(), UTC):%Y%m%d-%H%M%S}-{context.operation}"
    facts = stamps(
        operation=context.operation, why=why, note=note, keep=keep, by=context.actor.id, taken=int(context.now())
    )
    running = host.lxd.instance(tenant.instance).running
    # Nothing writes in a stopped one.
    with host.mautic.hold(tenant.instance) if running else nullcontext(Hold(True)) as hold:
        host.lxd.snapshot(tenant.instance, name, config=facts)
    if not hold.consistent:
        return f"{name}, as after a power cut: {hold.why}"
    return f"{name}; writes waited {seconds(hold.seconds)}" if running else f"{name}, of a stopped container"
