"""`reload`, `upgrade`: upgrades a closed tenant in one request, with the steps that are also verbs of their own.

Every tenth of a second counts, since nobody is served meanwhile: one request instead of six saves a tenth for each.
"""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .cache import is_carried, warm
from .database import start_database
from .install import BASELINE
from .logs import words_of
from .migrations import available, migrate, recorded
from .page import assets, wait_for_page
from .rows import rows
from .swap import swap
from .system import FPM, MAUTIC, CtlError, asked, console, mautic_version, systemctl, write
from .trees import must_be_closed

PAGE = 60
"""Seconds within which the login page must answer."""


def reload(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Make Mautic register its plugins, write down the migration figures, and restart PHP on the tree that serves."""
    ended = console("mautic:plugins:reload")
    if ended.returncode:
        raise CtlError(f"mautic:plugins:reload ended with {ended.returncode}: {words_of(ended)}")
    there, done = available(MAUTIC), recorded() or set()
    figures = {"executed": len(done), "available": len(there), "new": len(there - done)}
    write(BASELINE, json.dumps({"version": mautic_version(), **figures}))
    systemctl("restart", FPM)
    return {}


def upgrade(request: Mapping[str, Any]) -> dict[str, Any]:
    """Swap the trees, build the cache unless it was carried over, migrate, reload, and request the login page.

    Request: version, seconds? (limit of the migrations), tables? (whose rows are counted). Returns `version`, `phases`
    {name: seconds}, `carried` (the cache was carried over), `migrated` (the answer of `migrate`), `up_to_date`,
    `assets` (the login page and what it links to), and the rows before and after the migrations (`had`, `has`; tables
    that take too long to count are missing). A failed migration ends the upgrade, and the answer then has nothing after
    `migrated`.
    """
    (version,) = asked(request, "version")
    must_be_closed()
    with ThreadPoolExecutor(1) as beside:
        return _upgrade(request, version, beside)


def _upgrade(request: Mapping[str, Any], version: str, beside: ThreadPoolExecutor) -> dict[str, Any]:
    phases: dict[str, float] = {}

    def timed(name: str, began: float) -> None:
        phases[name] = round(time.monotonic() - began, 3)

    # Rows are counted beside the other steps: the database is idle until the migrations, and nearly idle after them.
    counting = beside.submit(rows, request.get("tables") or ())
    began = time.monotonic()
    # MariaDB starts meanwhile if the container was started just now.
    swap(request)
    timed("swap", began)
    began = time.monotonic()
    start_database()
    timed("database", began)
    began = time.monotonic()
    carried = is_carried()
    if not carried:
        warm({})
    timed("cache", began)
    had = counting.result()
    began = time.monotonic()
    migrated = migrate(request)
    timed("migrate", began)
    answer = {"version": version, "phases": phases, "carried": carried, "migrated": migrated}
    if not migrated["done"]:
        return answer
    counting = beside.submit(rows, had)
    began = time.monotonic()
    reload({})
    timed("reload", began)
    began = time.monotonic()
    wait_for_page({"seconds": PAGE})
    looked = assets({})
    timed("page", began)
    new = available(MAUTIC) - (recorded() or set())
    counted = {"had": had, "has": counting.result()}
    return answer | counted | {"up_to_date": not new, "assets": looked["assets"]}
