"""`resize`: applies a plan's sizes to MariaDB, PHP and the workers."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .database import start_database
from .system import FPM, PHP, PHP_FOLDER, CtlError, asked, run, sql, systemctl, write
from .workers import set_workers

DATABASE_PLAN = Path("/etc/mysql/mariadb.conf.d/90-plan.cnf")
PHP_PLAN = PHP_FOLDER / PHP / "fpm/pool.d/zz-plan.conf"
PATIENCE = 60
"""Seconds that MariaDB may take to release memory."""
CHUNK = 128 << 20
"""Bytes to which MariaDB rounds the size of its buffer pool."""
GROWS = Path("/usr/local/bin/mautic-pool")
"""The script that lets a full pool grow towards its planned size. With older furniture, which lacks it, the pool starts
at its full size."""
SHARE = 8
"""A pool starts at one SHARE-th of its planned size: MariaDB takes 2 % of the pool's size for itself, used or not."""


def bytes_of(size: str) -> int:
    """Return the bytes of a MariaDB size such as `768M`; raises CtlError for other text."""
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", size)
    if not match:
        raise CtlError(f"“{size}” is not a size for MariaDB; write one such as 768M")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def first_size(plan: int) -> int:
    """Return the bytes with which a pool of `plan` bytes starts."""
    return min(plan, max(CHUNK, plan // SHARE)) if GROWS.exists() else plan


def write_pool(plan: int) -> None:
    """Write the pool size for MariaDB's next start; the second line of the file is for the script at GROWS."""
    text = f"# Sizes of the tenant's plan.\n# pool = {plan}\n[mysqld]\ninnodb_buffer_pool_size = {first_size(plan)}\n"
    write(DATABASE_PLAN, text)


def planned_pool() -> int:
    """Return the planned bytes of the pool, 0 if no plan is written down."""
    told = DATABASE_PLAN.read_text() if DATABASE_PLAN.exists() else ""
    found = re.findall(r"^(?:# pool|innodb_buffer_pool_size) = (\w+)$", told, re.MULTILINE)
    return bytes_of(found[0]) if found else 0


def write_sizes(pool: str, children: int) -> None:
    """Write the sizes that take effect at the next start or reload."""
    write_pool(bytes_of(pool))
    write(PHP_PLAN, f"; Sizes of the tenant's plan.\n[www]\npm.max_children = {children}\n")


def resize(request: Mapping[str, Any]) -> dict[str, Any]:
    """Apply new sizes without interruption: MariaDB resizes its pool while running, PHP finishes its current requests.

    More memory is meant to be used, so the pool gets its full size at once; at its next start MariaDB begins small
    again. MariaDB and PHP are started if they do not run, as a full disk may have stopped them. When this returns,
    MariaDB has released the memory of a larger pool. Raises CtlError if that takes longer than PATIENCE.
    """
    pool, children, workers = asked(request, "innodb_buffer_pool", "fpm_children", "email_workers")
    pool_bytes = bytes_of(pool)
    write_sizes(pool, int(children))
    run("systemctl", "reset-failed", "mariadb")
    start_database()
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
