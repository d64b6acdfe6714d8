"""`restart`: restarts the services of one part of a tenant."""

from collections.abc import Mapping
from typing import Any

from .access import restart_database
from .system import FPM, CtlError, asked, systemctl
from .workers import LOOK, LOOK_UNIT, workers

PARTS = {"cron": ["cron"], "web": [FPM, "nginx"], "database": ["mariadb"]}


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
    else:
        systemctl("restart", *units)
    return {}
