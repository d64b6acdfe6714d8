"""The quotas of btrfs: reads the kernel's view of them inside a container, and starts a rescan."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import uuid
from pathlib import PurePosixPath

from bot.lxd.protocol import Quotas

ASK = [
    "sh",
    "-c",
    "grep -H ' - btrfs ' /proc/self/mountinfo; cd /sys/fs/btrfs;"
    " grep -sH '' */qgroups/inconsistent */devices/*/dm/name; grep -sH DEVNAME= */devices/*/uevent",
]
"""The command that runs in a container of the bot's own and prints what `read` parses."""
_ROOT = re.compile(r"(?:\S+ ){4}/ .* - btrfs (\S+) ")
_ELSEWHERE = "it is on another machine"
_FS_INFO, _RESCAN = 0x8400941F, 0x4040942C
"""ioctls: describe the filesystem, and rescan its quota groups (`btrfs quota rescan` without that program)."""


def read(told: str) -> Quotas | None:
    """Parse the output of `ASK`: lines of `file:line`, about the root's mount and every btrfs of the host.

    A mount names a device of its filesystem, as the kernel or the device mapper calls it, or the filesystem's UUID.
    Returns None where the root is on no btrfs with quotas.
    """
    source, states, devices = "", dict[str, str](), dict[str, str]()
    for line in told.splitlines():
        file, _, text = line.partition(":")
        filesystem, _, what = file.partition("/")
        if file == "/proc/self/mountinfo":
            if mount := _ROOT.match(text):
                source = PurePosixPath(mount[1]).name
        elif what == "qgroups/inconsistent":
            states[filesystem] = text
        else:
            devices[PurePosixPath(text.removeprefix("DEVNAME=")).name] = filesystem
    found = devices.get(source, source)
    return Quotas(found, states[found] == "0") if found in states else None


def recount(folder: str, filesystem: str) -> None:
    """Start a rescan of the quotas of a folder's filesystem; no effect where one is under way.

    Raises OSError where the folder is not on `filesystem` (a UUID), or the kernel does not allow it.
    """
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise OSError(errno.EXDEV, _ELSEWHERE) from error
    try:
        if _filesystem(place) != filesystem:
            raise OSError(errno.EXDEV, _ELSEWHERE)
        fcntl.ioctl(place, _RESCAN, bytes(64))
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            raise
    finally:
        os.close(place)


def _filesystem(place: int) -> str:
    """Return the UUID of the btrfs that an open folder is on, or "" where it is on none."""
    told = bytearray(1024)
    try:
        fcntl.ioctl(place, _FS_INFO, told)
    except OSError:
        return ""
    return str(uuid.UUID(bytes=bytes(told[16:32])))
