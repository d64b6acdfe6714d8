"""Recognises what an LXD server's refusals mean, by their text, and returns the matching errors; pure.

LXD answers most refusals with 400 or 500, so the text is all there is. LXD and Incus write nearly the same.
"""

from __future__ import annotations

import re

from bot.lxd.protocol import AlreadyExists, LxdError, LxdUnavailable, NotFound, PoolFull, Vanished
from bot.model.words import tame

_HELPER = "forkfile.sock"
"""Named in LXD's text when its helper for an instance's files ended just as LXD called it."""
_OCCUPIED = ("is busy running", "matching non-reusable operation")
_SENDING = "could not set subvolume flags: operation not permitted"
"""LXD's text for a snapshot that it is still sending to another host, as for a copy that was given up."""
_HELD = "volume that has snapshots"
"""LXD's text for an instance, once it has tried to delete such a snapshot and has written the reason to its log only;
also for an instance with snapshots that LXD does not know."""
_VANISHED = re.compile(r"instance snapshot: (lstat|readdirent|open|stat) /.*: no such file or directory", re.DOTALL)
"""LXD's text where a file was deleted while LXD looked for subvolumes among a running instance's files."""
_PASSING = re.compile(r'device "[^"\s/]{1,15}" does not exist')
"""The text where LXD or Incus goes through all interfaces of its machine and one disappears meanwhile: another
container's, or the bridge of another server; liblxc calls an interface `phys…` while it leaves a container."""
_UNHEARD = "shutting down the container failed"
"""LXD's text where liblxc reports at once that a request to shut down failed. It was seen once, on a busy machine, and
the container stopped nevertheless."""
_FULL = ("no space left", "quota exceeded", "enospc", "not enough space", "out of space")
_TAKEN = ("already exists", '" already in use', "unique constraint failed")
_ABSENT = ("not found", "no such object", "image not provided")
_AWAY = (
    "database is locked",
    "failed to begin transaction",
    "no available dqlite leader",
    "no available cowsql leader",
    "cluster member is offline",
    # For some seconds after a member was restarted.
    "missing event connection",
    "connection refused",
    "connection reset",
    "connection timed out",
    "broken pipe",
    "no route to host",
    "network is unreachable",
    "i/o timeout",
    "unexpected eof",
    '": eof',
)


class Busy(LxdError):
    """Another operation occupies the instance for a while."""


class Held(Busy):
    """Snapshots in the pool keep the instance from being deleted: they are being sent to another host, or LXD does not
    know them."""


class Passing(Busy):
    """Something unrelated to the request disappeared in the middle of it; the next try may well succeed."""


class Unheard(LxdError):
    """A container seems not to have heard the request to shut down; it may stop all the same."""


class HelperGone(LxdUnavailable):
    """LXD's helper for an instance's files is ending, as it does when idle; the next one starts when it is gone."""


class Stale(LxdError):
    """The instance changed between reading and writing."""


class AddressTaken(LxdError):
    """Another instance of the same host has the address that this one was given."""


def refusal(reason: str, doing: str, status: int, *, product: str, endpoint: str, pool: str) -> LxdError:
    """Return the error for a refusal, by its text: LXD answers most of them with 400 or 500."""
    low = " ".join(reason.split()).lower()
    # The text may name a tenant's file.
    text = tame(" ".join(reason.split()), 300).rstrip(". ")
    if status == 412:
        return Stale(f"{product} could not {doing}: the instance was changed at the same time. Try again.")
    if "ip address" in low and "already defined on another nic" in low:
        return AddressTaken(f"{product} could not {doing}: another instance has the same address.")
    # This comes early: the text names a file, whose name a tenant could choose so that a later check matches.
    if _VANISHED.search(low):
        return Vanished(f"{product} could not {doing}: files were deleted meanwhile. Try again.")
    if _PASSING.search(low):
        return Passing(f"{product} could not {doing}: {text}.")
    if _UNHEARD in low:
        return Unheard(f"{product} could not {doing}: {text}.")
    if any(word in low for word in _OCCUPIED):
        return Busy(f"{product} could not {doing}: {text}.")
    if _SENDING in low or _HELD in low:
        kind = Held if _HELD in low else Busy
        return kind(
            f"{product} could not {doing}: a snapshot is still being sent to another host, or is unknown to {product}. "
            "Try again in some minutes."
        )
    if "could not get subvolume flags" in low:
        return LxdError(
            f"{product} could not {doing}: {product} was restarted while the container was copied to this host, and "
            "cannot delete a part of the copy; remove its empty folder from `containers` in the pool, on the host, "
            "and try again."
        )
    if any(word in low for word in _FULL):
        return PoolFull(f"{product} could not {doing}: the storage pool `{pool}` (or the disk's limit) is full.")
    if _HELPER in low:
        return HelperGone(f"{product} could not {doing} now: {text}.")
    if status in (502, 503, 504) or any(word in low for word in _AWAY):
        return LxdUnavailable(f"{product} could not {doing} now: {text}.")
    if any(word in low for word in _TAKEN):
        return AlreadyExists(f"{product} could not {doing}: that name is already taken.")
    if status == 404 or any(word in low for word in _ABSENT):
        return NotFound(f"{product} could not {doing}: {text[:1].lower()}{text[1:]}.")
    if status == 403:
        server = f"{product} at {endpoint}"
        return LxdUnavailable(f"{server} does not allow the bot to {doing}: check its certificate.")
    return LxdError(f"{product} could not {doing}: {text}.")
