"""The folder of a btrfs pool, where its server runs on this machine: removes snapshots that LXD does not know."""

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
"""The inode number of a subvolume's root on btrfs; no plain folder has it."""


def of_pool(endpoint: str, pool: str) -> Path | None:
    """Return the folder of a pool as this process can enter it; None where it cannot: elsewhere, or not as root.

    `endpoint`: of the server. The pool is mounted in the server's mount namespace, which need not be the bot's.
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
    """Return whether a folder on btrfs is a subvolume."""
    return folder.stat().st_ino == _SUBVOLUME


def remove_snapshots(folder: Path, volume: str, known: Callable[[], set[str]]) -> bool:
    """Remove the snapshots of a container's volume except for the known ones; return whether any was removed.

    `known` is called after the snapshots were listed, because a server knows of a snapshot before it exists.
    """
    removed = False
    with suppress(OSError):
        there = sorted(folder.joinpath("containers-snapshots", volume).iterdir())
        names = known() if there else set()
        for one in there:
            if one.name not in names and is_subvolume(one):
                # The kernel refuses to delete a snapshot that is being sent.
                ended = subprocess.run(
                    ["btrfs", "subvolume", "delete", str(one)],
                    env={**os.environ, "PATH": packages.path()},
                    check=False,
                    capture_output=True,
                    timeout=60,
                )
                removed |= ended.returncode == 0
    return removed
