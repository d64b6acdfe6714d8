"""`mautic-drain`: waits until Mautic's jobs have ended, before their database stops together with the container.

An import that loses its database stays “in progress” for good, and the contacts of a sender's unfinished batch never
get their mail.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from ..mautic_ctl.jobs import SENDERS

PATIENCE = 40.0
"""Seconds that jobs may take in all. nginx, PHP and MariaDB stop afterwards, within the minute that a container has."""
UNDISTURBED = 35.0
"""Seconds after which a sender gets SIGTERM too: some end after their current batch then, and the rest has no time."""
NEVER = float("inf")


def told_after(command: bytes, *, begun: bool) -> float | None:
    """Return the seconds after which a process gets SIGTERM; None: it is no job.

    `command`: as in /proc/PID/cmdline. `begun`: it holds a job's lock, as mautic-cron does from the job's start on.
    """
    if b"messenger:consume" in command:
        # systemd itself tells the workers.
        return None
    if b"/mautic/bin/console" in command:
        return UNDISTURBED if any(sender.encode() in command for sender in SENDERS) else 0.0
    if b"mautic-cron" in command:
        # It ends together with its job, and writes the heartbeat. One that still waits for its second must not begin.
        return NEVER if begun else 0.0
    return None


def jobs() -> dict[int, float]:
    """Return the processes of jobs: {pid: seconds after which it gets SIGTERM}."""
    found = {}
    for folder in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            told = told_after((folder / "cmdline").read_bytes(), begun=(folder / "fd/9").exists())
            if told is not None:
                found[int(folder.name)] = told
    return found


def drain() -> None:
    """Tell jobs to end, each once, and wait for them, for PATIENCE seconds at most."""
    told: set[int] = set()
    began = time.monotonic()
    while (waited := time.monotonic() - began) < PATIENCE and (running := jobs()):
        for pid in {pid for pid, after in running.items() if waited >= after} - told:
            told.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.05)
