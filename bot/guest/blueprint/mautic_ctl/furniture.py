"""`furnish`, `unfurnish`: installs a version of the bot's files and units in a tenant, or the previous one again."""

import json
import os
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import outbound, trees
from .access import restart_database, restart_stopped
from .database import start_database
from .replaced_files import keep, put_back
from .sizes import DATABASE_PLAN, planned_pool, write_pool
from .slots import SETTINGS, asked_slot, cron_settings, in_slot, take_slot, write_cron_settings
from .system import (
    CRONTAB,
    FPM,
    MAUTIC,
    PHP,
    STATE,
    asked,
    await_systemd,
    read_json,
    run,
    sql,
    systemctl,
    write,
)
from .version import BASIC, FURNITURE, furniture_version
from .workers import LOOK, LOOK_UNIT

TAR = Path("/root/furniture.tar")
"""The archive that the bot pushes first: files and links, with paths from the root."""
ROOT = Path("/")
FORMER, KEPT = STATE / "furniture-former.tar", STATE / "furniture-former.json"
"""The replaced files, and {"version", "before"}: the version that replaced them, and the version they belong to."""
DATABASE_CONFIG = Path("/etc/mysql/mariadb.conf.d/80-mautic.cnf")
DATABASE_RUNS = Path("/run/mysqld/mysqld.pid")
"""The file that MariaDB writes at each start."""

FPM_SOCKET = f"/run/php/{FPM}.sock"
PAGES_END = 5
"""Seconds to wait at most for a moment without a request."""

PLACEHOLDER = "@PHP@"
"""The placeholder for the version of PHP in the furniture's files and their names."""

READER = (
    "CREATE USER IF NOT EXISTS 'www-data'@'localhost' IDENTIFIED VIA unix_socket;"
    " GRANT SELECT ON mautic.* TO 'www-data'@'localhost';"
)
"""Lets mautic-look read the database over its socket, without a password. This gives nothing away: Mautic runs as
www-data too, and may do more."""


def furnish(request: Mapping[str, Any]) -> dict[str, Any]:
    """Install the pushed furniture and reload the services that use it; for the present version, update settings only.

    Request: version, every (seconds after which a job runs even with nothing to do; 0: never), slot? (see `take_slot`).
    Returns version and before. The tenant keeps serving; if MariaDB must be restarted, jobs are stopped before, and
    page requests wait for a second or two. If anything fails, the previous files are put back and the error is raised.
    """
    version, every = asked(request, "version", "every")
    before = furniture_version()
    if before == version:
        write_cron_settings(every=int(every))
        take_slot(request)
        TAR.unlink(missing_ok=True)
        return {"version": version, "before": before}
    await_systemd()
    with tarfile.open(TAR) as tar:
        # After an interruption the previous files are already kept.
        if read_json(KEPT) != {"version": version, "before": before}:
            own = (CRONTAB, SETTINGS, DATABASE_PLAN)
            names = [for_php(name) for name in tar.getnames()]
            keep(FORMER, ROOT, [*names, *(str(path.relative_to(ROOT)) for path in own)])
            write(KEPT, json.dumps({"version": version, "before": before}))
        try:
            write_cron_settings(every=int(every), **asked_slot(request))
            lay(tar)
            if MAUTIC.is_dir():
                # Tenants with older furniture did not let Mautic add themes.
                release = trees.read_listing(trees.LISTING)
                trees.open_themes(MAUTIC, trees.own_entries(trees.THEMES, MAUTIC, release, release) if release else ())
            if plan := planned_pool():
                write_pool(plan)
            _apply()
        except Exception:
            with suppress(Exception):
                _put_back()
            raise
    # Written last, so that an interrupted run is repeated.
    write(FURNITURE, json.dumps({"version": version}))
    TAR.unlink(missing_ok=True)
    return {"version": version, "before": before}


def unfurnish(request: Mapping[str, Any]) -> dict[str, Any]:
    """Put back the files that a version replaced; do nothing if the tenant was not furnished with that version.

    Request: version. Returns the version that is there afterwards.
    """
    (version,) = asked(request, "version")
    kept = read_json(KEPT)
    if kept.get("version") != version:
        return {"version": furniture_version()}
    await_systemd()
    if kept["before"] == BASIC:
        FURNITURE.unlink(missing_ok=True)
    else:
        write(FURNITURE, json.dumps({"version": kept["before"]}))
    _put_back()
    TAR.unlink(missing_ok=True)
    return {"version": kept["before"]}


def for_php(text: str) -> str:
    """Return a furniture file's name or content with the installed version of PHP filled in."""
    return text.replace(PLACEHOLDER, PHP)


def _put_back() -> None:
    put_back(FORMER, ROOT)
    _apply()
    KEPT.unlink()
    FORMER.unlink()


def _apply() -> None:
    """Reload or restart the services that use the furniture, so that its present files take effect."""
    systemctl("daemon-reload")
    # Not together with other units: a service that starts while the journal stops dies of SIGPIPE, which systemd takes
    # for a clean exit.
    run("systemctl", "try-restart", "systemd-journald")
    start_database()
    _restart_database()
    restart_stopped()
    sql(READER)
    _await_no_page()
    # Services that do not run are not started: this may be a blueprint in the making, or a closed tenant.
    run("systemctl", "try-reload-or-restart", "nginx", FPM, timeout=120)
    run("systemctl", "try-restart", "cron")
    if LOOK_UNIT.exists():
        systemctl("restart", LOOK)
    else:
        run("systemctl", "stop", LOOK)
    run("systemctl", "--no-block", "try-restart", "mautic-worker@*")


def _await_no_page() -> None:
    """Wait for a moment without a request: a php-fpm that runs with older furniture cuts pages when it reloads."""
    give_up = time.monotonic() + PAGES_END
    while time.monotonic() < give_up:
        sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        # The sixth field of an established connection is 03.
        if not any(one[5] == "03" and one[-1] == FPM_SOCKET for one in sockets):
            return
        time.sleep(0.02)


def lay(tar: tarfile.TarFile) -> None:
    """Install files and links, each atomically, and leave unchanged ones alone.

    While outbound mail is off, the new crontab has the sending jobs commented out from its first moment.
    """
    for member in tar:
        path = ROOT / for_php(member.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            if not (path.is_symlink() and os.readlink(path) == member.linkname):
                new = path.with_name(f".{path.name}.new")
                new.unlink(missing_ok=True)
                new.symlink_to(member.linkname)
                new.replace(path)
        elif file := tar.extractfile(member):
            text = for_php(file.read().decode())
            if path == CRONTAB:
                text = in_slot(text, cron_settings().get("slot"))
                if outbound.OFF.exists():
                    text = outbound.without_senders(text)
            is_there = path.is_file() and not path.is_symlink()
            if not is_there or path.read_bytes() != text.encode() or path.stat().st_mode & 0o777 != member.mode:
                write(path, text, member.mode)


def _restart_database() -> None:
    """Restart MariaDB if its configuration is newer than its last start."""
    began = DATABASE_RUNS.stat().st_mtime if DATABASE_RUNS.exists() else 0.0
    if DATABASE_CONFIG.exists() and DATABASE_CONFIG.stat().st_mtime >= began:
        restart_database()
