"""Keeps ballast on a host's pool: space that the bot can give up, so that pruning works on a full pool.

A stopped container of the bot's own holds meaningless files. On a copy-on-write filesystem even deleting needs free
space, and nobody else can take the space that the ballast occupies.
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
"""The prefix of the names of ballast containers; no tenant's name begins with it."""
PIECE = 16 << 20
"""Bytes of one file of ballast, the amount that is given up at once."""
SHARE = 50
"""The ballast takes at most the pool's size divided by this, which matters for a small pool."""
COUNTED = 60.0
"""Seconds within which a filesystem makes freed space available: it commits that every half minute."""
IMAGE = "mautic-ops-ballast"


def keep(host: Host, size: int, reserve: int) -> None:
    """Bring the ballast of a host to this size, as far as the pool has free space for it beyond its reserve.

    Args:
        size: bytes; 0: remove all ballast.
        reserve: percent of the pool that ballast leaves free.
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
    """Delete one piece of ballast; return whether there was one."""
    name = _name(host)
    there = _pieces(host.lxd, name)
    if not there:
        return False
    host.lxd.remove(name, _file(there - 1))
    host.lxd.update(name, as_labels(pieces=there - 1))
    return True


def with_space(host: Host, work: Callable[[], None], *, freed: bool = False) -> None:
    """Do work that needs a little free space, and give up one piece of ballast for it where the pool is full.

    Retries the work for COUNTED seconds. `freed`: space was freed just now, so retry even without ballast. Raises
    PoolFull where there is still no space.
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
    # In a cluster each member has its own pool, but all members share one set of instance names.
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{RESERVE}{host.name}").strip("-")[:63]


def _file(number: int) -> str:
    return f"/ballast-{number}"


def _pieces(lxd: Lxd, name: str) -> int | None:
    """Return the number of pieces of ballast; None where there is no ballast container."""
    try:
        instance = lxd.instance(name)
    except NotFound:
        return None
    if role_of(instance.config) != Role.BALLAST:
        raise LxdError(f"There is an instance `{name}` that is not the bot's; rename it.")
    return number_of(label_of(instance.config, "pieces"))


def _make(lxd: Lxd, name: str) -> None:
    """Create the ballast container, which is empty and never starts."""
    if lxd.image(IMAGE) is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "empty.tar.gz")
            with tarfile.open(path, "w:gz") as image:
                # Without properties in the image, LXD 5.0 crashes at an import that passes some (a nil map).
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
