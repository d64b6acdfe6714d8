"""What the server tells of a tenant's container, and what the bot itself has written down of it."""

from __future__ import annotations

from bot.fleet.health.look import Look, finds, is_full, listed
from bot.model.diagnosis import Found
from bot.model.labels import State
from bot.model.text import seconds, size
from bot.settings import HealthSettings


@finds("stopped")
def stopped(look: Look, _: HealthSettings) -> Found | None:
    """Find a container that does not run."""
    if look.running:
        return None
    full = " Its disk is full." if is_full(look.disk) else ""
    status = look.state.status.lower()
    if status == "stopped":
        return Found(f"The container stopped and was not stopped on purpose.{full}")
    return Found(f"The container is {status} though it should run.{full}")


@finds("inside")
def inside(look: Look, _: HealthSettings) -> Found | None:
    """Find a tenant that does not tell of itself."""
    return Found(look.trouble) if look.trouble and look.running else None


@finds("disk")
def disk(look: Look, limits: HealthSettings) -> Found | None:
    """Find a disk that is nearly full."""
    disk = look.disk
    if disk is None or disk.used is None or not disk.limit or disk.used * 100 <= disk.limit * limits.disk:
        return None
    known = f"{size(disk.used)} of {size(disk.limit)}"
    if look.disk_at:
        known += ", when it was measured last"
    elif is_full(disk):
        known += ", so nothing in it can write"
    return Found(f"{disk.used / disk.limit:.0%} of its disk is in use: {known}.")


@finds("snapshot")
def snapshot(look: Look, _: HealthSettings) -> Found | None:
    """Find that snapshots are late by a whole interval: one that waits for its turn is none that is missing.

    One that a clock ahead dated after now tells nothing.
    """
    if not look.snapshot_due:
        return None
    last = max((one.created for one in look.snapshots if one.created <= look.at), default=0)
    if look.at - max(last, look.tenant.created, look.awake) <= 2 * look.snapshot_due:
        return None
    ago = f"Its last snapshot is {seconds(look.at - last)} old" if last else "It has no snapshot"
    return Found(f"{ago}; one is due every {seconds(look.snapshot_due)}.")


@finds("snapshots")
def snapshots(look: Look, limits: HealthSettings) -> Found | None:
    """Find that a tenant's past takes room from all that are on its host: told before the oldest of it has to go."""
    if not look.allowed or look.held * 100 <= look.allowed * limits.snapshots:
        return None
    beyond = "so none is taken and the oldest go" if look.held > look.allowed else "and beyond that the oldest go"
    return Found(f"Its snapshots hold {size(look.held)} of the {size(look.allowed)} that its plan allows, {beyond}.")


@finds("address")
def address(look: Look, _: HealthSettings) -> Found | None:
    """Find an address that it was not given alone, which is never routed to, or that it took itself."""
    if not look.running:
        return None
    own = look.tenant.address
    unrouted = f"Its address is {own}, so the edge sends nobody to it"
    if look.rival:
        return Found(f"{unrouted}: `{look.rival}` has that too.", {"rival": look.rival})
    if look.foreign:
        return Found(
            f"{unrouted}: it is not one that tenants have. Take the device `eth0` off `{look.tenant.instance}` on the "
            "server, and it is given another."
        )
    taken = [one for one in look.state.addresses if one != own] if own else []
    if not taken:
        return None
    return Found(
        f"Inside it has taken {listed(taken)}, and was given {own}. It gets nothing by that, since the edge goes by "
        "what was given; but only who is root in it can do so: take it for broken into."
    )


@finds("move")
def move(look: Look, _: HealthSettings) -> Found | None:
    """Find what an operation left half way."""
    if look.tenant.state != State.MOVING:
        return None
    serves = look.page is not None and look.page.login
    online = "The site is online, served by the new container" if serves else "The site is offline"
    if not look.half_done:
        return Found(f"{online}: a restore or move left it half way.", {"forgotten": "yes"})
    if look.left:
        return Found(f"{look.left} Retry and Undo are in the thread of operation {look.half_done}.")
    loses = ", which loses what is written to it by then" if serves else ""
    return Found(f"{online}: operation {look.half_done} is stuck. Retry or Undo{loses}, in its thread.")
