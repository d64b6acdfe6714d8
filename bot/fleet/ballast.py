"""Room on a host's pool that can be given up, so that pruning works on a full one.

A stopped container of the bot's own holds files that say nothing. On a copy-on-write filesystem even removing needs
room; what the ballast takes nobody else can have taken.
"""

from __future__ import annotations

import io
import platform
import re
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bot.fleet.inventory import Host
from bot.lxd.protocol import Lxd, LxdError, NotFound, PoolFull
from bot.lxd.wire import NIC
from bot.model.labels import Role, as_labels, label_of, number_of, role_of

RESERVE = "ballast-"
"""What the names of its containers begin with, and no tenant's."""
PIECE = 16 << 20
"""Bytes of one file: so much is given up at once."""
SHARE = 50
"""Of a small pool the ballast is at most one part in so many."""
COUNTED = 60.0
"""Seconds within which a filesystem gives room back that was freed: it writes that down every half minute."""
IMAGE = "mautic-ops-ballast"


def keep(host: Host, size: int, reserve: int) -> None:
    """Let the ballast of a host be of this size, where the pool has room for it beside its reserve.

    Args:
        size: bytes, 0: there is to be none.
        reserve: percent of the pool.
    """
    space, lxd = host.lxd.pool(), host.lxd
    wanted = min(size, space.total // SHARE) // PIECE
    there = _pieces(lxd, _name(host))
    if there is None and wanted:
        _make(lxd, _name(host))
    there = there or 0
    spare = (space.total - space.used - space.total * reserve // 100) // PIECE
    for number in range(there, min(wanted, there + max(0, spare))):
        lxd.pad(_name(host), _file(number), PIECE)
        lxd.update(_name(host), as_labels(pieces=number + 1))
    for _ in range(there - wanted):
        give_up(host)


def give_up(host: Host) -> bool:
    """Give one piece up; tell whether there was one."""
    name = _name(host)
    there = _pieces(host.lxd, name)
    if not there:
        return False
    host.lxd.remove(name, _file(there - 1))
    host.lxd.update(name, as_labels(pieces=there - 1))
    return True


def with_space(host: Host, work: Callable[[], None], *, freed: bool = False) -> None:
    """Do what needs a little room, and give up ballast for it where the pool is full.

    `freed`: room was freed just now, and is waited for also where there is no ballast.
    """
    end = 0.0
    while True:
        try:
            return work()
        except PoolFull:
            if not end and not give_up(host) and not freed:
                raise
            end = end or time.monotonic() + COUNTED
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def _name(host: Host) -> str:
    # Of a cluster each member has a pool, and all have one set of names.
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{RESERVE}{host.name}").strip("-")[:63]


def _file(number: int) -> str:
    return f"/ballast-{number}"


def _pieces(lxd: Lxd, name: str) -> int | None:
    """Return how many pieces there are; None: there is no container for them."""
    try:
        instance = lxd.instance(name)
    except NotFound:
        return None
    if role_of(instance.config) != Role.BALLAST:
        raise LxdError(f"There is an instance `{name}` that is not the bot's; rename it.")
    return number_of(label_of(instance.config, "pieces"))


def _make(lxd: Lxd, name: str) -> None:
    """Make the container: it has nothing, and never starts."""
    if lxd.image(IMAGE) is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "empty.tar.gz")
            with tarfile.open(path, "w:gz") as image:
                # Without properties in it LXD 5.0 ends itself at an import that gives some (a nil map).
                described = (
                    f"architecture: {platform.machine()}\ncreation_date: 1700000000\nproperties: {{os: none}}\n"
                ).encode()
                entry = tarfile.TarInfo("metadata.yaml")
                entry.size = len(described)
                image.addfile(entry, io.BytesIO(described))
                root = tarfile.TarInfo("rootfs")
                root.type, root.mode = tarfile.DIRTYPE, 0o755
                image.addfile(root)
            lxd.import_image(str(path), IMAGE, {"os": "none"})
    config = {**as_labels(role=Role.BALLAST), "boot.autostart": "false"}
    lxd.create(name, IMAGE, config=config, devices={NIC: {"type": "none"}})
