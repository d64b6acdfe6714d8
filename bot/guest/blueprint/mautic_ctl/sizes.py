"""`resize`: what a plan gives MariaDB, PHP and the workers."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import FPM, PHP, PHP_FOLDER, CtlError, asked, await_database, run, sql, systemctl, write
from .workers import set_workers

DATABASE_PLAN = Path("/etc/mysql/mariadb.conf.d/90-plan.cnf")
PHP_PLAN = PHP_FOLDER / PHP / "fpm/pool.d/zz-plan.conf"
PATIENCE = 60
"""Seconds that MariaDB may take to give memory back."""
CHUNK = 128 << 20
"""Bytes to which MariaDB rounds the size of its pool."""
GROWS = Path("/usr/local/bin/mautic-pool")
"""What lets the pool grow towards its size where it is full; with older furniture it is whole from the start."""
SHARE = 8
"""The part of its size that a pool begins with: MariaDB takes 2 % of it for itself, used or not."""


def bytes_of(size: str) -> int:
    """Return the bytes of a MariaDB size such as `768M`; raises CtlError."""
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", size)
    if not match:
        raise CtlError(f"“{size}” is not a size for MariaDB; write one such as 768M")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def first_size(plan: int) -> int:
    """Return the bytes that a pool begins with which may have so many."""
    return min(plan, max(CHUNK, plan // SHARE)) if GROWS.exists() else plan


def write_pool(plan: int) -> None:
    """Write down the size of the pool that the next start goes by; the second line is for who lets it grow."""
    text = f"# Sizes of the tenant's plan.\n# pool = {plan}\n[mysqld]\ninnodb_buffer_pool_size = {first_size(plan)}\n"
    write(DATABASE_PLAN, text)


def planned_pool() -> int:
    """Return the bytes that the pool may have, 0: nothing says so."""
    told = DATABASE_PLAN.read_text() if DATABASE_PLAN.exists() else ""
    found = re.findall(r"^(?:# pool|innodb_buffer_pool_size) = (\w+)$", told, re.MULTILINE)
    return bytes_of(found[0]) if found else 0


def write_sizes(pool: str, children: int) -> None:
    """Write down the sizes that the next start, or reload, goes by."""
    write_pool(bytes_of(pool))
    write(PHP_PLAN, f"; Sizes of the tenant's plan.\n[www]\npm.max_children = {children}\n")


def resize(request: Mapping[str, Any]) -> dict[str, Any]:
    """Go by other sizes, without a break: MariaDB resizes its pool in use, PHP finishes what it is at.

    Who gives a tenant more wants it used: the pool has its whole size at once, until MariaDB is started anew.
    What does not run is started: where the disk was full until now it ended. What MariaDB holds of a bigger pool is
    given back by the end of it.
    """
    pool, children, workers = asked(request, "innodb_buffer_pool", "fpm_children", "email_workers")
    pool_bytes = bytes_of(pool)
    write_sizes(pool, int(children))
    if run("systemctl", "is-active", "--quiet", "mariadb").returncode:
        run("systemctl", "reset-failed", "mariadb")
        systemctl("start", "mariadb")
    await_database()
    sql(f"SET GLOBAL innodb_buffer_pool_size = {pool_bytes};")
    systemctl("reload-or-restart", FPM)
    set_workers(int(workers))
    give_up = time.monotonic() + PATIENCE
    while _pool_in_use() > pool_bytes + CHUNK:
        if time.monotonic() > give_up:
            raise CtlError(
                f"MariaDB did not give its memory back within {PATIENCE} seconds; try again at a quieter time"
            )
        time.sleep(0.1)
    return {}


def _pool_in_use() -> int:
    pages = sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_total'")[0][1]
    page = sql("SHOW GLOBAL STATUS LIKE 'Innodb_page_size'")[0][1]
    return int(pages) * int(page)
