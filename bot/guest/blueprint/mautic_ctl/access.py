"""`close`, `open`, `quiesce`, `unquiesce`: who is let in, and what works inside.

The seal is what keeps visitors, jobs and workers out, over reboots too. Its text says whose it is: `closed …` is a
person's, and stays when a move ends. A copy is muted too: without its seal visitors are let in, and jobs and workers
not yet.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .system import (
    CLOSED,
    FPM,
    IDENTITY,
    MAUTIC,
    MUTE,
    CtlError,
    asked,
    await_database,
    await_systemd,
    run,
    sql,
    systemctl,
    write,
)
from .workers import start_workers, workers

STACK = ("mariadb", FPM, "nginx", "cron")
IMPORT_ENDS = 20
"""Seconds that an import, told to end, has for the contacts at hand."""
STANDS_STILL = 60
"""Seconds that PHP stands still at most while MariaDB begins."""
RESTED = Path("/run/mautic-ops-rested.json")
"""The units that ended for the database's sake."""
WAITING = "/run/mautic-look/wait"
"""What a job reads while it waits for its second."""
FEW_PAGES = 500
"""Pages of 16 kB that MariaDB writes at its end in no time."""
FLUSH_FAST = "SET GLOBAL innodb_io_capacity_max = 40000, innodb_io_capacity = 20000, innodb_max_dirty_pages_pct = 0;"
FLUSH_AS_EVER = (
    "SET GLOBAL innodb_io_capacity = DEFAULT, innodb_io_capacity_max = DEFAULT, innodb_max_dirty_pages_pct = DEFAULT;"
)


def close(request: Mapping[str, Any]) -> dict[str, Any]:
    """Show a polite page, and stop what sends."""
    (reason,) = asked(request, "reason")
    write(CLOSED, f"closed {reason}\n")
    systemctl("stop", "mautic-worker@*")
    _end_jobs()
    return {}


def open_up(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Start all, and take the seal away."""
    _wake()
    MUTE.unlink(missing_ok=True)
    CLOSED.unlink(missing_ok=True)
    start_workers()
    return {}


def quiesce(_request: Mapping[str, Any]) -> dict[str, Any]:
    """End all work. What can be done while visitors are still served is done before they are turned away."""
    with suppress(CtlError):
        sql(FLUSH_FAST)
    systemctl("stop", "cron", "mautic-worker@*")
    _end_jobs()
    run("sync", "-f", str(MAUTIC))
    _await_clean_pages()
    began = time.monotonic()
    write(MUTE, "")
    _seal()
    end_requests()
    systemctl("stop", FPM, "mariadb.socket", "mariadb")
    run("sync", "-f", str(MAUTIC))
    return {"seconds": round(time.monotonic() - began, 3)}


def stop_work(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Turn visitors away and end what sends. The database goes on: it ends when the container is stopped."""
    _seal()
    systemctl("stop", "cron", "mautic-worker@*")
    _end_jobs()
    return {}


def unquiesce(request: Mapping[str, Any]) -> dict[str, Any]:
    """Take `quiesce`, or `stop_work`, back."""
    if CLOSED.exists() and CLOSED.read_text().startswith("closed"):
        _wake()
        MUTE.unlink(missing_ok=True)
        return {}
    return open_up(request)


def _wake() -> None:
    if not IDENTITY.exists():
        raise CtlError("it has no identity of its own yet, and is not opened without one")
    await_systemd()
    systemctl("start", *STACK)
    await_database()
    sql(FLUSH_AS_EVER)


def _seal() -> None:
    if not CLOSED.exists():
        write(CLOSED, "moving\n")


def _await_clean_pages() -> None:
    """Wait until MariaDB has little left to write at its end, three seconds at most."""
    give_up = time.monotonic() + 3
    with suppress(CtlError):
        while time.monotonic() < give_up:
            ((_, dirty),) = sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty';")
            if int(dirty) < FEW_PAGES:
                return
            time.sleep(0.05)


def end_requests(patience: float = 5) -> None:
    """Let PHP finish the requests at hand, for some seconds: what is not answered by then was not acknowledged."""
    run("systemctl", "kill", "--kill-who=main", "--signal=QUIT", FPM)
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up and run("systemctl", "is-active", FPM).returncode == 0:
        time.sleep(0.02)


def restart_database() -> None:
    """Start MariaDB anew, and wait until it answers; jobs and workers end before, and pages that are asked for wait.

    An import that loses the database stays “in progress”, and Mautic deletes its file hours later; one that is told to
    end puts itself off, and goes on in its next run. Pages at hand when MariaDB ends may fail.
    """
    ran = {unit for unit in ("cron", *workers()) if run("systemctl", "is-active", unit).returncode == 0}
    # LXD kills this where its bot ends: whoever tries again starts what had ended by then.
    write(RESTED, json.dumps(sorted(ran | set(_rested()))))
    try:
        if ran:
            systemctl("stop", *sorted(ran))
        _end_jobs(IMPORT_ENDS)
        # Nothing stands still for longer than that, whatever becomes of us.
        goes_on = ("systemctl", "kill", "--signal=CONT", FPM)
        if run("systemd-run", "--quiet", "--collect", f"--on-active={STANDS_STILL}", *goes_on).returncode == 0:
            run("systemctl", "kill", "--signal=STOP", FPM)
        systemctl("restart", "mariadb")
        await_database()
    finally:
        wake_rested()


def wake_rested() -> None:
    """Start what rested when the database was started anew; nothing where all is as it should be."""
    if RESTED.exists():
        run("systemctl", "kill", "--signal=CONT", FPM)
        if units := _rested():
            systemctl("start", "--no-block", *units)
        RESTED.unlink()


def _rested() -> list[str]:
    try:
        return [str(unit) for unit in json.loads(RESTED.read_text())]
    except (OSError, ValueError):
        return []


def _end_jobs(patience: float = 5) -> None:
    """End the running jobs, which systemd does not: a job that began under the seal skips by itself."""
    give_up = time.monotonic() + patience
    while jobs := _jobs():
        for job in jobs:
            with suppress(ProcessLookupError):
                os.kill(job, signal.SIGTERM if time.monotonic() < give_up else signal.SIGKILL)
        time.sleep(0.02)


def _jobs() -> list[int]:
    """The processes of cron's jobs and of the console; workers are systemd's, and ended by now.

    A job that waits for its second has not begun: it looks for the seal then, and one of a week is not to be lost.
    """
    found = []
    for folder in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            is_job = b"mautic-cron" in command and not _waits(folder)
            if is_job or b"/mautic/bin/console" in command:
                found.append(int(folder.name))
    return found


def _waits(process: Path) -> bool:
    # One of which that cannot be told may have begun.
    with suppress(OSError):
        return os.readlink(process / "fd/0") == WAITING
    return False
