"""`furnish`: what we put into a tenant, brought to a version: files, units, and what of it a database has to know."""

import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import outbound, trees
from .access import restart_database, wake_rested
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
    await_database,
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
"""What the bot pushes before: the files and links, from the root on."""
ROOT = Path("/")
FORMER, KEPT = STATE / "furniture-former.tar", STATE / "furniture-former.json"
"""What stood here before, and {"version", "before"}: before which version, and which that was."""
DATABASE_CONFIG = Path("/etc/mysql/mariadb.conf.d/80-mautic.cnf")
DATABASE_RUNS = Path("/run/mysqld/mysqld.pid")
"""What MariaDB leaves at each start of its own."""

PLACEHOLDER = "@PHP@"
"""What stands for the version of PHP in our files and their names."""

READER = (
    "CREATE USER IF NOT EXISTS 'www-data'@'localhost' IDENTIFIED VIA unix_socket;"
    " GRANT SELECT ON mautic.* TO 'www-data'@'localhost';"
)
"""Who looks before PHP is started: by its socket, without a password. Mautic runs as www-data too, and may do more."""


def furnish(request: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the furniture, and have what runs go by it; again with the same version it changes nothing.

    `every`: seconds after which a job runs whatever there is to do, 0: never. `slot`: as `take_slot` has it. A tenant
    goes on to serve; where MariaDB has to be started anew, jobs are ended before, and pages that are asked for wait for
    a second or two. What cannot be laid whole is put back as it was.
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
        # What was cut in the middle has kept what was before that.
        if read_json(KEPT) != {"version": version, "before": before}:
            own = (CRONTAB, SETTINGS, DATABASE_PLAN)
            names = [for_php(name) for name in tar.getnames()]
            keep(FORMER, ROOT, [*names, *(str(path.relative_to(ROOT)) for path in own)])
            write(KEPT, json.dumps({"version": version, "before": before}))
        try:
            write_cron_settings(every=int(every), **asked_slot(request))
            lay(tar)
            if MAUTIC.is_dir():
                # A tenant of before kept them shut.
                release = trees.read_listing(trees.LISTING)
                trees.open_themes(MAUTIC, trees.own_entries(trees.THEMES, MAUTIC, release, release) if release else ())
            if plan := planned_pool():
                write_pool(plan)
            _go_by_it()
        except Exception:
            with suppress(Exception):
                _put_back()
            raise
    # Last, so that what was cut in the middle is done again.
    write(FURNITURE, json.dumps({"version": version}))
    TAR.unlink(missing_ok=True)
    return {"version": version, "before": before}


def unfurnish(request: Mapping[str, Any]) -> dict[str, Any]:
    """Put back what stood in a tenant before it was furnished with a version; where it was not, nothing changes."""
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
    """Return a name, or the content, of a file of ours as it is for the PHP that is installed here."""
    return text.replace(PLACEHOLDER, PHP)


def _put_back() -> None:
    put_back(FORMER, ROOT)
    _go_by_it()
    KEPT.unlink()
    FORMER.unlink()


def _go_by_it() -> None:
    """Have what runs go by the files that are there now."""
    systemctl("daemon-reload")
    # Alone: what is being started while the journal ends dies of SIGPIPE, which systemd takes for a good end.
    run("systemctl", "try-restart", "systemd-journald")
    systemctl("start", "mariadb")
    _restart_database()
    await_database()
    wake_rested()
    sql(READER)
    # What does not run is not started: a blueprint in the making, or a tenant that is closed.
    run("systemctl", "try-reload-or-restart", "nginx", FPM, timeout=120)
    run("systemctl", "try-restart", "cron")
    if LOOK_UNIT.exists():
        systemctl("restart", LOOK)
    else:
        run("systemctl", "stop", LOOK)
    run("systemctl", "--no-block", "try-restart", "mautic-worker@*")


def lay(tar: tarfile.TarFile) -> None:
    """Put files and links into place, each as a whole, those that are as they should be left alone.

    While outbound mail is off, the jobs that send are none in the new crontab either, from its first moment on.
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
    """Start MariaDB anew where its configuration is newer than it."""
    began = DATABASE_RUNS.stat().st_mtime if DATABASE_RUNS.exists() else 0.0
    if DATABASE_CONFIG.exists() and DATABASE_CONFIG.stat().st_mtime >= began:
        restart_database()
