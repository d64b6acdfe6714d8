"""`reload`, `upgrade`: the steps of an upgrade in a closed tenant, each by itself elsewhere, here all in one go.

What nobody is served meanwhile counts in tenths of a second: one request instead of six saves one of them each.
"""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .cache import is_carried, warm
from .install import BASELINE
from .logs import words_of
from .migrations import available, migrate, recorded
from .page import assets, wait_for_page
from .rows import rows
from .swap import swap
from .system import FPM, MAUTIC, CtlError, asked, await_database, console, mautic_version, systemctl, write
from .trees import must_be_closed

PAGE = 60
"""Seconds within which the login page has to be there."""


def reload(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Tell Mautic of its plugins, and start PHP on the tree that serves."""
    ended = console("mautic:plugins:reload")
    if ended.returncode:
        raise CtlError(f"mautic:plugins:reload ended with {ended.returncode}: {words_of(ended)}")
    there, done = available(MAUTIC), recorded() or set()
    figures = {"executed": len(done), "available": len(there), "new": len(there - done)}
    write(BASELINE, json.dumps({"version": mautic_version(), **figures}))
    systemctl("restart", FPM)
    return {}


def upgrade(request: Mapping[str, Any]) -> dict[str, Any]:
    """Swap, warm what is not warm, migrate, reload, and look at the login page and what it links to.

    Asked: version, seconds? of the migrations, tables? whose rows are counted. Returns `phases` {name: seconds},
    whether the cache had been `carried`, what `migrate` returns (`migrated`), `up_to_date`, the `assets`, and the rows
    from before and after the migrations (`had`, `has`; what takes too long to count is in neither); a migration that
    failed ends it there, and what comes after is not in the answer.
    """
    (version,) = asked(request, "version")
    must_be_closed()
    with ThreadPoolExecutor(1) as beside:
        return _upgrade(request, version, beside)


def _upgrade(request: Mapping[str, Any], version: str, beside: ThreadPoolExecutor) -> dict[str, Any]:
    phases: dict[str, float] = {}

    def timed(name: str, began: float) -> None:
        phases[name] = round(time.monotonic() - began, 3)

    # The database has nothing else to do until the migrations, and little after them.
    counting = beside.submit(rows, request.get("tables") or ())
    began = time.monotonic()
    # MariaDB begins meanwhile, where the container was started just now.
    swap(request)
    timed("swap", began)
    began = time.monotonic()
    systemctl("start", "mariadb")
    await_database()
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
