"""Finds problems of a tenant that show in its container and in the bot's own records."""

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
    full = " The disk is full." if is_full(look.disk) else ""
    status = look.state.status.lower()
    if status == "stopped":
        return Found(f"The container stopped and was not stopped on purpose.{full}")
    return Found(f"The container is {status} but should be running.{full}")


@finds("inside")
def inside(look: Look, _: HealthSettings) -> Found | None:
    """Find a running tenant whose report about itself could not be read."""
    return Found(look.problem) if look.problem and look.running else None


@finds("disk")
def disk(look: Look, limits: HealthSettings) -> Found | None:
    """Find a disk that is nearly full."""
    disk = look.disk
    if disk is None or disk.used is None or not disk.limit or disk.used * 100 <= disk.limit * limits.disk:
        return None
    known = f"{size(disk.used)} of {size(disk.limit)}"
    if look.disk_at:
        known += " when last measured"
    elif is_full(disk):
        known += ", so nothing can be written"
    return Found(f"Disk {disk.used / disk.limit:.0%} full: {known}.")


@finds("snapshot")
def snapshot(look: Look, _: HealthSettings) -> Found | None:
    """Find snapshots that are late by a whole interval; a snapshot that only waits for its turn is not late."""
    if not look.snapshot_late:
        return None
    last = look.snapshot_taken
    ago = f"The latest snapshot is {seconds(look.at - last)} old" if last else "No snapshot exists"
    return Found(f"{ago}, but one is due every {seconds(look.snapshot_due)}.")


@finds("snapshots")
def snapshots(look: Look, limits: HealthSettings) -> Found | None:
    """Find snapshots close to the space that the plan allows them, before the oldest ones have to be deleted."""
    if not look.allowed or look.held * 100 <= look.allowed * limits.snapshots:
        return None
    beyond = (
        "No new one is taken, and the oldest are deleted"
        if look.held > look.allowed
        else "Above that the oldest are deleted"
    )
    return Found(f"Snapshots use {size(look.held)} of the {size(look.allowed)} that the plan allows. {beyond}.")


@finds("address")
def address(look: Look, _: HealthSettings) -> Found | None:
    """Find a tenant whose assigned address is shared or outside the tenants' network, or which uses another address.

    A shared or outside address is never routed to.
    """
    if not look.running:
        return None
    own = look.tenant.address
    unrouted = f"The tenant has the address {own}, so no traffic is routed to its site"
    if look.rival:
        return Found(f"{unrouted}: `{look.rival}` has the same address.", {"rival": look.rival})
    if look.foreign:
        return Found(
            f"{unrouted}: the address is outside the tenants' network. Remove the device `eth0` from "
            f"`{look.tenant.instance}` on the server to assign a new address."
        )
    taken = [one for one in look.state.addresses if one != own] if own else []
    if not taken:
        return None
    return Found(
        f"The tenant was assigned {own}, but took {listed(taken)} inside the container. Traffic still follows the "
        "assigned address, but only root inside can do this: treat the tenant as compromised."
    )


@finds("move")
def move(look: Look, _: HealthSettings) -> Found | None:
    """Find a tenant that an operation left halfway."""
    if look.tenant.state != State.MOVING:
        return None
    serves = look.page is not None and look.page.login
    online = "Site online, served by the new container" if serves else "Site offline"
    if not look.half_done:
        return Found(f"{online}: a move, restore or upgrade was interrupted.", {"forgotten": "yes"})
    if look.left:
        ways = "Retry and Undo are" if look.undoable else "Retry is"
        return Found(f"{look.left} {ways} on the card of request #{look.half_done}.")
    ways = "Retry or Undo" if look.undoable else "Retry"
    loses = " (Undo loses what was written since)" if serves and look.undoable else ""
    return Found(f"{online}: request #{look.half_done} is stuck. Tap {ways} on its card{loses}.")
