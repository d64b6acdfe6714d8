"""When a tenant's heavy jobs begin: at its own second of every five minutes, so that a host's tenants take turns."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import CRONTAB, CtlError, write

SETTINGS = Path("/etc/default/mautic-cron")
"""What mautic-cron reads: `every`, seconds after which a job runs whatever there is to do, 0: never; and `slot`."""
CYCLE = 300
HEAVY = {
    "mautic:segments:update": (0, 15),
    "mautic:campaigns:update": (5, 15),
    "mautic:campaigns:trigger": (10, 15),
    "mautic:import": (0, 3),
}
"""The jobs that may take long, with their first minute of the hour, and how many there are between two runs.

Of the first three one tenant runs one in every five minutes, so that a slot lets one of each tenant's begin.
"""


def in_slot(crontab: str, slot: int | None) -> str:
    """Return a crontab with the heavy jobs at the minutes of a slot; None: as it is, for all at the same minutes."""
    if slot is None:
        return crontab
    for job, (first, period) in HEAVY.items():
        minutes = ",".join(str((first + slot // 60) % period + start) for start in range(0, 60, period))
        # The job may stand as a comment, while outbound mail is off.
        line = rf"^(#outbound-off# )?[\d*]\S*( +\* +\* +\* +\* .* mautic-cron \d+ \d+ {job}\b)"
        crontab = re.sub(line, rf"\g<1>{minutes}\2", crontab, flags=re.MULTILINE)
    return crontab


def cron_settings() -> dict[str, int]:
    """Return what mautic-cron is told: {every, slot}, each only where it is."""
    try:
        text = SETTINGS.read_text()
    except FileNotFoundError:
        return {}
    return {key: int(value) for key, value in re.findall(r"^(every|slot)=(\d+)$", text, re.MULTILINE)}


def write_cron_settings(**told: int) -> None:
    """Tell mautic-cron what it goes by; what is not told stays."""
    lines = [f"{key}={value}" for key, value in sorted({**cron_settings(), **told}.items())]
    said = "# Written by the bot. every: seconds after which a job runs whatever there is to do; 0: never."
    write(SETTINGS, "\n".join([said, *lines, ""]))


def asked_slot(request: Mapping[str, Any]) -> dict[str, int]:
    """Return {slot} of a request, a second of CYCLE, or {} where it names none; raises CtlError."""
    slot = request.get("slot")
    if slot is None:
        return {}
    if not isinstance(slot, int) or not 0 <= slot < CYCLE:
        raise CtlError(f"`slot` is not a second of {CYCLE}")
    return {"slot": slot}


def take_slot(request: Mapping[str, Any]) -> None:
    """Have the heavy jobs begin in the slot of a request; where it names none nothing changes."""
    if told := asked_slot(request):
        write_cron_settings(**told)
        before = CRONTAB.read_text()
        if (after := in_slot(before, told["slot"])) != before:
            write(CRONTAB, after)
