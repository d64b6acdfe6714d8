"""`disk`: what a tenant has of its disk, counted as that counts which limits it."""

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
"""Where the kernel (5.9 and later) tells of the quota groups of btrfs, to who is in a container too."""
_FS_INFO, _INO_LOOKUP = 0x8400941F, 0xD0009412
"""ioctls of btrfs that anybody may ask: which filesystem, and which subvolume of it."""
_ROOT_FOLDER = 256
_HAS_LIMIT = 1
UNTOLD = "nothing here tells it"
INCONSISTENT = "the kernel has stopped counting, as the quotas of the host's pool are inconsistent, and no limit holds"


def disk(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {used, limit, free, why}: see `measure`."""
    return measure(request.get("disk") or {})


def used(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {used}: the bytes of all files, counted one by one, where nothing has counted them."""
    ended = run("du", "-sxk", "/", timeout=100)
    return {"used": 1024 * int(ended.stdout.split()[0]) if ended.stdout else 0}


def sync(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Put on disk what is not there yet, so that it is counted."""
    os.sync()
    return {}


def measure(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return, in bytes, what is used of which limit (each None where that cannot be known), and what can still be
    written (`free`). `why`, for people: why it is not known what is used, "" where it is.

    On btrfs a limit counts all that a subvolume refers to, shared with snapshots and clones or not, and that stands in
    its quota group, where LXD's own figure does not count what is shared. Elsewhere `known`, LXD's used and the plan's
    limit, are of one measure. What can be written ends where the pool does, too.

    Where the kernel finds the quotas of a pool inconsistent the figures of its groups stand still, and no limit is
    enforced, until they are counted anew.
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
    """Whether the figures of these groups stand still; False also of kernels before 6.1, which do not tell."""
    told = groups / "inconsistent"
    return told.exists() and told.read_text().strip() == "1"


def _counted(group: Path) -> tuple[int | None, int | None]:
    def figure(name: str) -> int:
        return int((group / name).read_text())

    # What is reserved is written, and counted with the next commit.
    used = figure("referenced") + figure("rsv_data")
    return used, figure("max_referenced") if figure("limit_flags") & _HAS_LIMIT else None


def _quota_group() -> Path | None:
    found = _subvolume()
    if found is None:
        return None
    group = QGROUPS / str(found[0]) / "qgroups" / f"0_{found[1]}"
    return group if (group / "referenced").exists() else None


def _subvolume() -> tuple[uuid.UUID, int] | None:
    """Return the filesystem and the number of the subvolume, None where it is not btrfs."""
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
