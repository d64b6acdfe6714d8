"""Schedules a tenant's heavy jobs at its own second of every five minutes, so that a host's tenants take turns."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import CRONTAB, CtlError, write

SETTINGS = Path("/etc/default/mautic-cron")
"""The settings that mautic-cron reads: `slot`, and `every`, the seconds after which a job runs even with nothing to do
(0: never)."""
CYCLE = 300
HEAVY = {
    "mautic:segments:update": (0, 15),
    "mautic:campaigns:update": (5, 15),
    "mautic:campaigns:trigger": (10, 15),
    "mautic:import": (0, 3),
}
"""The jobs that may take long, with their first minute of the hour and the minutes between two runs.

Of the first three jobs a tenant starts one every five minutes, so each slot of CYCLE starts one of them per tenant.
"""


def in_slot(crontab: str, slot: int | None) -> str:
    """Return a crontab with the heavy jobs moved to the minutes of a slot; with None, return it unchanged."""
    if slot is None:
        return crontab
    for job, (first, period) in HEAVY.items():
        minutes = ",".join(str((first + slot // 60) % period + start) for start in range(0, 60, period))
        # The job is commented out while outbound mail is off.
        line = rf"^(#outbound-off# )?[\d*]\S*( +\* +\* +\* +\* .* mautic-cron \d+ \d+ {job}\b)"
        crontab = re.sub(line, rf"\g<1>{minutes}\2", crontab, flags=re.MULTILINE)
    return crontab


def cron_settings() -> dict[str, int]:
    """Return mautic-cron's settings {every, slot}; a setting that is not in the file is missing."""
    try:
        text = SETTINGS.read_text()
    except FileNotFoundError:
        return {}
    return {key: int(value) for key, value in re.findall(r"^(every|slot)=(\d+)$", text, re.MULTILINE)}


def write_cron_settings(**told: int) -> None:
    """Write settings for mautic-cron; settings that are not given keep their values."""
    lines = [f"{key}={value}" for key, value in sorted({**cron_settings(), **told}.items())]
    said = "# Written by the bot. every: seconds after which a job runs whatever there is to do; 0: never."
    write(SETTINGS, "\n".join([said, *lines, ""]))


def asked_slot(request: Mapping[str, Any]) -> dict[str, int]:
    """Return {slot} of a request, or {} when it names none. Raises CtlError when it is not a second of CYCLE."""
    slot = request.get("slot")
    if slot is None:
        return {}
    if not isinstance(slot, int) or not 0 <= slot < CYCLE:
        raise CtlError(f"`slot` is not a second of {CYCLE}")
    return {"slot": slot}


def take_slot(request: Mapping[str, Any]) -> None:
    """Move the heavy jobs to the slot of a request; do nothing when it names none."""
    if told := asked_slot(request):
        write_cron_settings(**told)
        before = CRONTAB.read_text()
        if (after := in_slot(before, told["slot"])) != before:
            write(CRONTAB, after)
