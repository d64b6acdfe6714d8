"""Ends the jobs that run in a tenant; a job that sends gets the time to finish its batch first."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SENDERS = (
    "mautic:campaigns:trigger",
    "mautic:messages:send",
    "mautic:broadcasts:send",
    "mautic:email:sendwinner",
    "mautic:reports:scheduler",
    "mautic:contacts:scheduled_export",
)
"""The jobs that send, or queue what is sent."""
BATCH_ENDS = 60
"""Seconds that a job that sends has to end by itself, before it gets SIGTERM.

Mautic first logs a batch of 100 contacts as done, and then sends to them: if the job is cut, the rest of the batch
never gets its mail. Most releases do not handle SIGTERM here; the others look for it only after a batch.
"""
WAITING = "/run/mautic-look/wait"
"""The FIFO that a job reads while it waits for its second."""


def end_jobs(patience: float = 5, batch: float = BATCH_ENDS) -> None:
    """Stop the running jobs, which systemd does not; a job that begins while the tenant is closed skips its run.

    Jobs that send get `batch` seconds to end by themselves. The others get SIGTERM at once, at which an import
    postpones itself. A job that still runs `patience` seconds after its SIGTERM is killed.
    """
    _end(_jobs, patience, batch)


def end_senders() -> None:
    """Stop the sending jobs, as `end_jobs` does, and those that still wait for their second."""
    _end(_senders, 5, BATCH_ENDS)


def _end(running: Callable[[], dict[int, bytes]], patience: float, batch: float) -> None:
    began = time.monotonic()
    signalled: dict[int, float] = {}
    while jobs := running():
        now = time.monotonic()
        # Until PHP has started, nothing is cut.
        sending = {_sender(command) for command in jobs.values() if b"/mautic/bin/console" in command} - {None}
        for job, command in jobs.items():
            if now - began < batch and _sender(command) in sending and not _waits(Path(f"/proc/{job}")):
                continue
            is_patient = now - signalled.setdefault(job, now) < patience
            with suppress(ProcessLookupError):
                os.kill(job, signal.SIGTERM if is_patient else signal.SIGKILL)
        time.sleep(0.02)


def _jobs() -> dict[int, bytes]:
    """Return the process ids and command lines of cron's jobs and console commands, once the workers are stopped.

    A job that still waits for its second is left out: it checks for the closed marker when it begins, and killing a
    weekly job would lose its run.
    """

    def is_job(folder: Path, command: bytes) -> bool:
        return b"/mautic/bin/console" in command or (b"mautic-cron" in command and not _waits(folder))

    return _processes(is_job)


def _senders() -> dict[int, bytes]:
    # This also matches cron's shell that has not started the job yet.
    return _processes(lambda _, command: _sender(command) is not None)


def _sender(command: bytes) -> str | None:
    return next((sender for sender in SENDERS if sender.encode() in command), None)


def _processes(matches: Callable[[Path, bytes], bool]) -> dict[int, bytes]:
    found = {}
    for folder in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if matches(folder, command):
                found[int(folder.name)] = command
    return found


def _waits(process: Path) -> bool:
    # A process that cannot be inspected counts as begun.
    with suppress(OSError):
        return os.readlink(process / "fd/0") == WAITING
    return False
