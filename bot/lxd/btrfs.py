"""The quotas of btrfs: what the kernel tells of them inside a container, and how it is made to count anew."""

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
"""What is run in a container of ours, so that it tells what `read` reads."""
_ROOT = re.compile(r"(?:\S+ ){4}/ .* - btrfs (\S+) ")
_ELSEWHERE = "it is on another machine"
_FS_INFO, _RESCAN = 0x8400941F, 0x4040942C
"""ioctls: which filesystem, and count its quota groups anew (`btrfs quota rescan`), which needs no program."""


def read(told: str) -> Quotas | None:
    """Read what `ASK` told: lines of `file:line`, of the root's mount and of every btrfs of the host.

    A mount names a device of its filesystem, as the kernel or the device mapper calls it, or by the filesystem's uuid.
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
    """Have the kernel begin to count anew the filesystem of a folder; no effect where that is under way.

    Raises OSError where it is not this filesystem (its uuid), or the kernel does not let it.
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
    """Return the uuid of the btrfs that an open folder is on, "" where it is none."""
    told = bytearray(1024)
    try:
        fcntl.ioctl(place, _FS_INFO, told)
    except OSError:
        return ""
    return str(uuid.UUID(bytes=bytes(told[16:32])))
