"""`reload`, `upgrade`: the steps of an upgrade in a closed tenant, each by itself elsewhere, here all in one go.

What nobody is served meanwhile counts in tenths of a second: one request instead of six saves one of them each.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from .cache import is_carried, warm
from .install import BASELINE
from .logs import words_of
from .migrations import available, migrate, record, recorded
from .page import assets, wait_for_page
from .swap import swap
from .system import FPM, MAUTIC, CtlError, asked, console, mautic_version, systemctl, write
from .trees import NEXT, must_be_closed

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

    Asked: version, seconds? of the migrations. Returns `phases` {name: seconds}, whether the cache had been `carried`,
    what `migrate` returns (`migrated`), `up_to_date` and the `assets`; a migration that failed ends it there, and what
    comes after is not in the answer.
    """
    (version,) = asked(request, "version")
    must_be_closed()
    phases: dict[str, float] = {}

    def timed(name: str, began: float) -> None:
        phases[name] = round(time.monotonic() - began, 3)

    began = time.monotonic()
    if NEXT.is_dir() and (MAUTIC / "bin/console").exists():
        # By the old code, whose schema it is. What was adopted has none: `migrate` looks at its migrations.
        record({})
    timed("record", began)
    began = time.monotonic()
    swap(request)
    timed("swap", began)
    began = time.monotonic()
    carried = is_carried()
    if not carried:
        warm({})
    timed("cache", began)
    began = time.monotonic()
    migrated = migrate(request)
    timed("migrate", began)
    answer = {"version": version, "phases": phases, "carried": carried, "migrated": migrated}
    if not migrated["done"]:
        return answer
    began = time.monotonic()
    reload({})
    timed("reload", began)
    began = time.monotonic()
    wait_for_page({"seconds": PAGE})
    looked = assets({})
    timed("page", began)
    new = available(MAUTIC) - (recorded() or set())
    return answer | {"up_to_date": not new, "assets": looked["assets"]}
