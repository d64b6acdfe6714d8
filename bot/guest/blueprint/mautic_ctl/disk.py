"""`disk`: measures a tenant's disk usage, counted in the same way as the limit on it."""

import fcntl
import os
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import run

ROOT = Path("/")
QGROUPS = Path("/sys/fs/btrfs")
"""Where the kernel (5.9 and later) shows the quota groups of btrfs, inside containers too."""
_FS_INFO, _INO_LOOKUP = 0x8400941F, 0xD0009412
"""ioctls of btrfs that need no privileges: which filesystem, and which subvolume of it."""
_ROOT_FOLDER = 256
_HAS_LIMIT = 1
UNTOLD = "nothing here tells it"
INCONSISTENT = "the kernel has stopped counting, as the quotas of the host's pool are inconsistent, and no limit holds"


def disk(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {used, limit, free, why}: see `measure`."""
    return measure(request.get("disk") or {})


def used(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {used}: the bytes of all files, counted one by one, for filesystems that keep no count; 0 on failure."""
    ended = run("du", "-sxk", "/", timeout=100)
    return {"used": 1024 * int(ended.stdout.split()[0]) if ended.stdout else 0}


def sync(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Write cached data to disk, so that it is counted."""
    os.sync()
    return {}


def measure(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return {used, limit, free, why}, in bytes.

    `used` and `limit` are None if they cannot be known. `free` is what can still be written. `why` explains to people
    why `used` is not known; "" if it is. `known` is {used, limit}: LXD's figure, and the plan's limit.

    On btrfs a limit counts everything that a subvolume refers to, whether or not snapshots and clones share it. The
    subvolume's quota group has that count, while LXD's own figure leaves shared data out. On other filesystems LXD's
    figure and the plan's limit in `known` count in the same way. Free space is also limited by that of the pool.

    If the kernel finds a pool's quotas inconsistent, it stops updating the counts and enforces no limit until
    everything is counted again.
    """
    space = os.statvfs(ROOT)
    free = space.f_bavail * space.f_frsize
    group, why = _quota_group(), UNTOLD
    if group is not None:
        used, limit = _counted(group)
        if _is_inconsistent(group.parent):
            used, why = None, INCONSISTENT
    elif _subvolume() is not None:
        used, limit = None, known.get("limit")
    else:
        used, limit = known.get("used") or None, known.get("limit")
    left = free if used is None or limit is None else min(free, limit - used)
    return {"used": used, "limit": limit, "free": max(0, left), "why": why if used is None else ""}


def _is_inconsistent(groups: Path) -> bool:
    """Return whether the kernel has stopped counting these groups; False before Linux 6.1, which does not tell."""
    told = groups / "inconsistent"
    return told.exists() and told.read_text().strip() == "1"


def _counted(group: Path) -> tuple[int | None, int | None]:
    def figure(name: str) -> int:
        return int((group / name).read_text())

    # Reserved data is already written, and is counted with the next commit.
    used = figure("referenced") + figure("rsv_data")
    return used, figure("max_referenced") if figure("limit_flags") & _HAS_LIMIT else None


def _quota_group() -> Path | None:
    found = _subvolume()
    if found is None:
        return None
    group = QGROUPS / str(found[0]) / "qgroups" / f"0_{found[1]}"
    return group if (group / "referenced").exists() else None


def _subvolume() -> tuple[uuid.UUID, int] | None:
    """Return the filesystem's UUID and the subvolume's number, None if it is not btrfs."""
    folder = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        asked = bytearray(4096)
        struct.pack_into("=QQ", asked, 0, 0, _ROOT_FOLDER)
        fcntl.ioctl(folder, _INO_LOOKUP, asked)
        told = bytearray(1024)
        fcntl.ioctl(folder, _FS_INFO, told)
    except OSError:
        return None
    finally:
        os.close(folder)
    return uuid.UUID(bytes=bytes(told[16:32])), int(struct.unpack_from("=Q", asked)[0])
