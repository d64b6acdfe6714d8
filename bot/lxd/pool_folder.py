"""The folder of a btrfs pool, where its server runs on this machine: what LXD left there that it does not know."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bot.lxd import packages

_SUBVOLUME = 256
"""The inode of a subvolume's root, on btrfs; no folder has it."""


def of_pool(endpoint: str, pool: str) -> Path | None:
    """Return the folder of a pool as this process can enter it, None where it cannot: elsewhere, or no root's.

    `endpoint`: of the server; the pool is mounted where that sees it, which need not be where we are.
    """
    if not endpoint.startswith("/") or os.geteuid() != 0:
        return None
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(5)
        door.connect(endpoint)
        pid = int.from_bytes(door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
        folder = Path(f"/proc/{pid}/root", *Path(endpoint).parent.parts[1:], "storage-pools", pool)
        if folder.is_dir():
            return folder
    return None


def is_subvolume(folder: Path) -> bool:
    """Whether a folder on btrfs is a subvolume."""
    return folder.stat().st_ino == _SUBVOLUME


def remove_snapshots(folder: Path, volume: str, known: Callable[[], set[str]]) -> bool:
    """Remove the snapshots of a container's volume but for those known; tell whether any was removed.

    `known` is asked after they were listed: a server knows of a snapshot before it is there.
    """
    removed = False
    with suppress(OSError):
        there = sorted(folder.joinpath("containers-snapshots", volume).iterdir())
        names = known() if there else set()
        for one in there:
            if one.name not in names and is_subvolume(one):
                # One that is being sent is refused by the kernel.
                ended = subprocess.run(
                    ["btrfs", "subvolume", "delete", str(one)],
                    env={**os.environ, "PATH": packages.path()},
                    check=False,
                    capture_output=True,
                    timeout=60,
                )
                removed |= ended.returncode == 0
    return removed
