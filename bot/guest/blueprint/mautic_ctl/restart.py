"""`restart`: restarts the services of one part of a tenant."""

from collections.abc import Mapping, Sequence
from typing import Any

from .access import restart_database
from .page import wait_for_page
from .system import FPM, CtlError, asked, systemctl
from .workers import LOOK, LOOK_UNIT, workers

PARTS = {"cron": ["cron"], "web": [FPM, "nginx"], "database": ["mariadb"]}
PATIENCE = 15
"""Seconds within which the login page must answer after a reload, which ends hung requests after five."""


def restart(request: Mapping[str, Any]) -> dict[str, Any]:
    """Restart a part: worker, cron, web or database. Raises CtlError for any other, or if there are no workers."""
    (part,) = asked(request, "part")
    units = workers() if part == "worker" else PARTS.get(part, [])
    if part == "cron" and LOOK_UNIT.exists():
        units = [*units, LOOK]
    if not units:
        raise CtlError(f"there is no {part} to restart")
    if part == "database":
        restart_database()
    elif part != "web" or not _reloaded(units):
        systemctl("restart", *units)
    return {}


def _reloaded(units: Sequence[str]) -> bool:
    """Replace all processes without cutting pages in progress, as a restart would; return whether that was enough."""
    try:
        systemctl("reload-or-restart", *units)
        wait_for_page({"seconds": PATIENCE})
    except CtlError:
        return False
    return True
