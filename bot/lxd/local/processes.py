"""Looks at processes of this machine, and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from bot.lxd import packages


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended but is not reaped yet does not."""
    with suppress(ChildProcessError):
        # Reap a child of this process that has ended.
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end_all(pids: list[int]) -> None:
    """End processes, by force where they do not end within 5 seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        end = time.monotonic() + 5
        while any(alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.02)


def parents() -> dict[int, int]:
    """Return the parent of every process of this machine, by pid."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def quietly(*command: str) -> None:
    """Run a command that may find nothing to do, and ignore its failure."""
    with suppress(FileNotFoundError):
        subprocess.run(command, env={**os.environ, "PATH": packages.path()}, check=False, capture_output=True)
