"""`furnish`: what we put into a tenant, brought to a version: files, units, and what of it a database has to know."""

import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import outbound
from .sizes import planned_pool, write_pool
from .system import CRONTAB, STATE, asked, await_database, await_systemd, run, sql, systemctl, write
from .version import FURNITURE, furniture_version
from .workers import LOOK

TAR = Path("/root/furniture.tar")
"""What the bot pushes before: the files and links, from the root on."""
ROOT = Path("/")
SETTINGS = Path("/etc/default/mautic-cron")
DATABASE_CONFIG = Path("/etc/mysql/mariadb.conf.d/80-mautic.cnf")
DATABASE_RUNS = Path("/run/mysqld/mysqld.pid")
"""What MariaDB leaves at each start of its own."""

READER = (
    "CREATE USER IF NOT EXISTS 'www-data'@'localhost' IDENTIFIED VIA unix_socket;"
    " GRANT SELECT ON mautic.* TO 'www-data'@'localhost';"
)
"""Who looks before PHP is started: by its socket, without a password. Mautic runs as www-data too, and may do more."""


def furnish(request: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the furniture, and have what runs go by it; again with the same version it changes nothing.

    `every`: seconds after which a job runs whatever there is to do, 0: never. A tenant goes on to serve; where MariaDB
    has to be started anew, pages wait for it for a second or two.
    """
    version, every = asked(request, "version", "every")
    before = furniture_version()
    said = "# Written by the bot: seconds after which a job runs whatever there is to do; 0: never."
    write(SETTINGS, f"{said}\nevery={every:d}\n")
    if before == version:
        TAR.unlink(missing_ok=True)
        return {"version": version, "before": before}
    await_systemd()
    with tarfile.open(TAR) as tar:
        lay(tar)
    if plan := planned_pool():
        write_pool(plan)
    systemctl("daemon-reload")
    systemctl("start", "mariadb")
    _restart_database()
    await_database()
    sql(READER)
    # What does not run is not started: a blueprint in the making, or a tenant that is closed.
    run("systemctl", "try-reload-or-restart", "nginx", "php8.2-fpm", timeout=120)
    run("systemctl", "try-restart", "cron", "systemd-journald")
    systemctl("restart", LOOK)
    run("systemctl", "--no-block", "try-restart", "mautic-worker@*")
    STATE.mkdir(parents=True, exist_ok=True)
    # Last, so that what was cut in the middle is done again.
    write(FURNITURE, json.dumps({"version": version}))
    TAR.unlink(missing_ok=True)
    return {"version": version, "before": before}


def lay(tar: tarfile.TarFile) -> None:
    """Put files and links into place, each as a whole, those that are as they should be left alone.

    While outbound mail is off, the jobs that send are none in the new crontab either, from its first moment on.
    """
    for member in tar:
        path = ROOT / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            if not (path.is_symlink() and os.readlink(path) == member.linkname):
                new = path.with_name(f".{path.name}.new")
                new.unlink(missing_ok=True)
                new.symlink_to(member.linkname)
                new.replace(path)
        elif file := tar.extractfile(member):
            text = file.read().decode()
            if path == CRONTAB and outbound.OFF.exists():
                text = outbound.without_senders(text)
            is_there = path.is_file() and not path.is_symlink()
            if not is_there or path.read_text() != text or path.stat().st_mode & 0o777 != member.mode:
                write(path, text, member.mode)


def _restart_database() -> None:
    """Start MariaDB anew where its configuration is newer than it."""
    began = DATABASE_RUNS.stat().st_mtime if DATABASE_RUNS.exists() else 0.0
    if DATABASE_CONFIG.exists() and DATABASE_CONFIG.stat().st_mtime >= began:
        systemctl("restart", "mariadb")
