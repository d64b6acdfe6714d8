"""`close`, `open`, `quiesce`, `stop_work`, `unquiesce`: turns a tenant's visitors and background work on and off.

The closed marker (`CLOSED`) keeps visitors, jobs and workers out, across reboots too. Its text says who set it: `closed
…` was set by a person, and stays when a move ends. A copy has the marker `MUTE` too: once its closed marker is removed,
visitors are let in, but jobs and workers still do not run.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from .database import start_database
from .jobs import end_jobs
from .system import (
    CLOSED,
    FPM,
    IDENTITY,
    MAUTIC,
    MUTE,
    CtlError,
    asked,
    await_systemd,
    run,
    sql,
    systemctl,
    write,
)
from .workers import start_workers, workers

SUSPENSION_WAITS = 20
"""Seconds that a job that sends has to end by itself when the tenant is closed: a suspension should be prompt, and the
bot waits for a minute only."""
IMPORT_ENDS = 20
"""Seconds that an import has to finish its current contacts after SIGTERM."""
PAUSE_LIMIT = 60
"""Seconds for which PHP is paused at most while MariaDB restarts."""
RESTED = Path("/run/mautic-ops-rested.json")
"""The units that were stopped for a restart of the database."""
FLUSH_ENDS = 10
"""Seconds that MariaDB may take to write its dirty pages while visitors are still served: what is left makes its
shutdown longer, but with much traffic some always is."""
ANSWERS = 5
"""Seconds within which MariaDB must answer while it is flushed; one that hangs is restarted without."""
FEW_PAGES = 500
"""Dirty pages (16 kB each) that MariaDB writes at its shutdown in no time."""
FLUSH_FAST = "SET GLOBAL innodb_io_capacity_max = 40000, innodb_io_capacity = 20000, innodb_max_dirty_pages_pct = 0;"
FLUSH_AS_EVER = (
    "SET GLOBAL innodb_io_capacity = DEFAULT, innodb_io_capacity_max = 2000, innodb_max_dirty_pages_pct = DEFAULT;"
)
"""The values after a start. The default of `innodb_io_capacity_max` would be no limit; MariaDB makes 2000 of it when it
starts."""


def close(request: Mapping[str, Any]) -> dict[str, Any]:
    """Show visitors a polite page, and stop jobs and workers."""
    (reason,) = asked(request, "reason")
    write(CLOSED, f"closed {reason}\n")
    systemctl("stop", "mautic-worker@*")
    end_jobs(batch=SUSPENSION_WAITS)
    return {}


def open_up(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Start all services, and remove the closed marker and `MUTE`."""
    _wake()
    MUTE.unlink(missing_ok=True)
    CLOSED.unlink(missing_ok=True)
    start_workers()
    return {}


def quiesce(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Stop all work. What can be done while visitors are still served is done before they are turned away."""
    _set(FLUSH_FAST)
    _end_work()
    run("sync", "-f", str(MAUTIC))
    _await_clean_pages()
    began = time.monotonic()
    _seal()
    end_requests()
    systemctl("stop", FPM, "mariadb.socket", "mariadb")
    run("sync", "-f", str(MAUTIC))
    return {"seconds": round(time.monotonic() - began, 3)}


def stop_work(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Stop jobs and workers, and then turn visitors away. The database keeps running until the container is stopped."""
    _end_work()
    _seal()
    return {}


def unquiesce(request: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `quiesce` or `stop_work`; a tenant that a person had closed stays closed."""
    if CLOSED.exists() and CLOSED.read_text().startswith("closed"):
        _wake()
        MUTE.unlink(missing_ok=True)
        return {}
    return open_up(request)


def _wake() -> None:
    if not IDENTITY.exists():
        raise CtlError("it has no identity of its own yet, and is not opened without one")
    await_systemd()
    start_database(beside=[FPM, "nginx", "cron"])
    sql(FLUSH_AS_EVER)


def _end_work() -> None:
    """Stop jobs and workers while visitors are still served; with `MUTE`, none begins any more."""
    write(MUTE, "")
    systemctl("stop", "cron", "mautic-worker@*")
    end_jobs()


def _seal() -> None:
    if not CLOSED.exists():
        write(CLOSED, "moving\n")


def _set(variables: str) -> None:
    # MariaDB may be stopped or hang.
    with suppress(CtlError, TimeoutExpired):
        sql(variables, timeout=ANSWERS)


def _await_clean_pages() -> None:
    """Wait until MariaDB has little left to write at its shutdown, `FLUSH_ENDS` seconds at most."""
    give_up = time.monotonic() + FLUSH_ENDS
    with suppress(CtlError, TimeoutExpired):
        while time.monotonic() < give_up:
            ((_, dirty),) = sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty';", timeout=ANSWERS)
            if int(dirty) < FEW_PAGES:
                return
            time.sleep(0.05)


def end_requests(patience: float = 5) -> None:
    """Let PHP finish its current requests, for `patience` seconds; an unanswered request was not acknowledged."""
    run("systemctl", "kill", "--kill-who=main", "--signal=QUIT", FPM)
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up and run("systemctl", "is-active", FPM).returncode == 0:
        time.sleep(0.02)


def restart_database() -> None:
    """Restart MariaDB and wait until it answers; jobs and workers are stopped before, and new page requests wait.

    An import that loses the database stays “in progress”, and Mautic deletes its file hours later; an import that gets
    SIGTERM postpones itself and continues in its next run. Pages in progress when MariaDB stops may fail. Its dirty
    pages are written before, while it still answers, so that it stops quickly.
    """
    ran = {unit for unit in ("cron", *workers()) if run("systemctl", "is-active", unit).returncode == 0}
    # LXD kills this process when the bot ends; the next attempt then starts what had been stopped.
    write(RESTED, json.dumps(sorted(ran | set(_rested()))))
    _set(FLUSH_FAST)
    try:
        if ran:
            systemctl("stop", *sorted(ran))
        end_jobs(IMPORT_ENDS)
        _await_clean_pages()
        # A timer resumes PHP in any case, even if this process is killed.
        goes_on = ("systemctl", "kill", "--signal=CONT", FPM)
        if run("systemd-run", "--quiet", "--collect", f"--on-active={PAUSE_LIMIT}", *goes_on).returncode == 0:
            run("systemctl", "kill", "--signal=STOP", FPM)
        start_database("restart")
    finally:
        restart_stopped()


def restart_stopped() -> None:
    """Start the units that were stopped for a restart of the database; do nothing if none were."""
    if RESTED.exists():
        run("systemctl", "kill", "--signal=CONT", FPM)
        if units := _rested():
            systemctl("start", "--no-block", *units)
        # MariaDB may not have been restarted after all.
        _set(FLUSH_AS_EVER)
        RESTED.unlink()


def _rested() -> list[str]:
    try:
        return [str(unit) for unit in json.loads(RESTED.read_text())]
    except (OSError, ValueError):
        return []
