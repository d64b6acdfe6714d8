"""`adopt`: turns a clone of a blueprint into a tenant before its upgrade, from the data that `take_own` received.

The result is like a closed copy of the tenant in which the blueprint's release is staged, so that `upgrade` can
continue from there; only the system underneath is the blueprint's.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import outbound, trees
from .cache import BUILT, CARRIED, cache_of
from .database import start_database
from .edge import EDGE, checked_address, edge_conf
from .furniture import READER
from .identity import rename_machine
from .own import DATABASE, LAID, OWN, OWN_DATABASE, TAKEN
from .parameters import provider_parameters, write_parameters
from .sizes import write_sizes
from .slots import take_slot
from .system import (
    FPM,
    IDENTITY,
    MAUTIC,
    MUTE,
    CtlError,
    asked,
    await_systemd,
    mautic_version,
    run,
    sql,
    systemctl,
    write,
)
from .trees import LISTING, NEXT, NEXT_LISTING, OWN_FOLDERS, STAGED, WRITABLE
from .workers import link_workers

SECONDS = 3600
"""Seconds that upgrading a large database to a newer MariaDB may take."""


def adopt(request: Mapping[str, Any]) -> dict[str, Any]:
    """Move the received data into place; after an interruption, a new clone is needed.

    Request: hostname, domain, innodb_buffer_pool, fpm_children, email_workers, edge_address?, slot?, since? (when the
    tenant was created), off? (its outbound mail is off), same? (the release is the one that the tenant has, so files of
    the release that were changed by hand are copied over it). Returns version (of the tenant), mariadb (its version
    now), cached (the blueprint's compiled cache fits the tenant), seconds.
    """
    hostname, domain, pool, children, workers = asked(
        request, "hostname", "domain", "innodb_buffer_pool", "fpm_children", "email_workers"
    )
    if not re.fullmatch(r"[a-z0-9.-]+", domain) or not re.fullmatch(r"[a-z0-9-]+", hostname):
        raise CtlError("`domain` or `hostname` is not one")
    address = checked_address(request.get("edge_address") or "")
    trees.must_be_closed()
    began = time.monotonic()
    if not TAKEN.exists() or not (OWN_DATABASE / "mautic").is_dir():
        raise CtlError("what is the client's own is not here")
    await_systemd()
    # No job or worker runs until the tenant is opened.
    write(MUTE, "")
    systemctl("stop", "cron", "mautic-worker@*", FPM, "mariadb.socket", "mariadb")
    write_sizes(pool, int(children))
    _settle_database()
    _settle_tree(is_same=bool(request.get("same")))
    rename_machine(hostname, domain, new=True)
    take_slot(request)
    link_workers(int(workers))
    write(EDGE, edge_conf(address))
    run("systemctl", "try-reload-or-restart", "nginx")
    start_database()
    _bring_up_to_date()
    sql(READER)
    write_parameters({}, provider_parameters(domain, address))
    cached = _keep_cache()
    if request.get("off"):
        outbound.hold_back()
    since = int(request.get("since") or time.time())
    write(IDENTITY, json.dumps({"hostname": hostname, "domain": domain, "since": since}))
    TAKEN.unlink()
    return {
        "version": mautic_version(),
        "mariadb": sql("SELECT VERSION();")[0][0],
        "cached": cached,
        "seconds": round(time.monotonic() - began, 3),
    }


def _settle_database() -> None:
    trees.remove(DATABASE)
    OWN_DATABASE.rename(DATABASE)
    DATABASE.chmod(0o755)


def _settle_tree(*, is_same: bool) -> None:
    """Make the client's tree the serving one, and the blueprint's the staged one, with the client's own files in it."""
    following = trees.read_listing(LISTING)
    if not following:
        raise CtlError("the blueprint does not say which files its release brought")
    version = mautic_version()
    MAUTIC.rename(NEXT)
    LISTING.replace(NEXT_LISTING)
    OWN.rename(MAUTIC)
    writable = [str(MAUTIC / name) for name in WRITABLE]
    for words in (
        ["chown", "-R", "-h", "root:root", str(MAUTIC), *([str(LAID)] if LAID.is_dir() else [])],
        ["chmod", "-R", "u+rwX,go+rX,go-w,a-st", str(MAUTIC), *([str(LAID)] if LAID.is_dir() else [])],
        ["mkdir", "-p", *writable],
        ["chown", "-R", "-h", "www-data:www-data", *writable],
        ["chmod", "750", str(MAUTIC / "config")],
    ):
        ended = run(*words, timeout=600)
        if ended.returncode:
            raise CtlError(
                f"the rights of the client's files could not be set: {(ended.stderr.splitlines() or [''])[0]}"
            )
    for folder in OWN_FOLDERS:
        for name in trees.own_entries(folder, MAUTIC, {}, following):
            trees.copy(MAUTIC / folder / name, NEXT / folder / name)
    for name in _files(LAID):
        if (is_same or name not in following) and _is_inside(NEXT, Path(name).parent):
            trees.copy(LAID / name, NEXT / name)
            if name.split("/")[0] in WRITABLE:
                os.chown(NEXT / name, *_owner(NEXT / "media"), follow_symlinks=False)
    trees.remove(LAID)
    write(STAGED, json.dumps({"version": version}))


def _files(folder: Path) -> list[str]:
    found = []
    for inside, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(inside, name), folder) for name in names]
    return sorted(found)


def _is_inside(root: Path, folder: Path) -> bool:
    """Return whether a folder below a root exists, or can be created, without a link or file on the way to it."""
    here = root
    for part in folder.parts:
        here = here / part
        if here.is_symlink() or (here.exists() and not here.is_dir()):
            return False
    return True


def _owner(path: Path) -> tuple[int, int]:
    seen = path.stat()
    return seen.st_uid, seen.st_gid


def _bring_up_to_date() -> None:
    """Upgrade the database's system tables to this MariaDB; does nothing if the version is the same."""
    ended = run("mariadb-upgrade", timeout=SECONDS)
    if ended.returncode:
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise CtlError(f"mariadb-upgrade ended with {ended.returncode}: {(said or [''])[-1][:200]}")


def _keep_cache() -> bool:
    """Mark the blueprint's compiled cache as carried over if it fits this tenant too; return whether it does."""
    following = trees.read_listing(NEXT_LISTING)
    label = cache_of(NEXT, following)
    has_own = trees.own_entries("plugins", NEXT, following, following)
    is_a_new_ones = label["scheme"] == "https" and not label["configuration"]
    holds = not has_own and is_a_new_ones and (NEXT / BUILT).is_dir()
    if holds:
        write(NEXT / CARRIED, json.dumps(label))
    return holds
