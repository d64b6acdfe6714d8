"""Judges cron's jobs by the crontab and by the heartbeats that they leave. Pure."""

import re
from collections.abc import Mapping
from typing import Any

Beat = Mapping[str, Any]
UNCONFIGURED = frozenset(
    [
        "mautic:email:fetch",
        "mautic:iplookup:download",
        "mautic:donotsell:download",
        "mautic:max-mind:purge",
        "mautic:contacts:cleanup_exported_files",
    ]
)
"""Jobs that fail if a client has not set up what they are for, or the release does not have them: never late."""

NOTHING = "nothing"
LOOKED = {NOTHING: "nothing to do", "off": "not set up"}
"""A heartbeat's values of `looked` for a job for which PHP was not started, in words. Older furniture writes none."""
CATCHES_UP = 2 * 900 + 900
"""Seconds in which jobs and workers catch up with what waited while the tenant was closed, off or suspended."""


def cron_times(crontab: str) -> dict[str, tuple[int, int]]:
    """Return {command: (seconds between runs, seconds that a run may take)} for a crontab's calls of mautic-cron."""
    times = {}
    for line in crontab.splitlines():
        match = re.match(r"([\d*]\S*)\s+(\S+)\s+\S+\s+\S+\s+(\S+)\s+www-data\s+mautic-cron\s+\d+\s+(\d+)\s+(\S+)", line)
        if match:
            minute, hour, weekday, limit, command = match.groups()
            if weekday != "*":
                period = 7 * 86400
            elif hour != "*":
                period = 86400
            else:
                step = re.fullmatch(r"\*(?:/(\d+))?", minute)
                period = 60 * int(step[1] or 1) if step else 3600 // len(minute.split(","))
            times[command] = period, int(limit)
    return times


def cron_states(
    times: Mapping[str, tuple[int, int]], beats: Mapping[str, Beat], since: float, now: float, awake: float = 0
) -> dict[str, dict[str, Any]]:
    """Return {command: {last_success, rc, late, known, why, looked}} for the jobs.

    A job is late if it has not succeeded for two periods and a quarter of an hour (two periods and its time limit while
    an earlier run has not ended). A job with nothing to do is also late if PHP has not been started for it for that
    time and twice `every`. UNCONFIGURED jobs are never late. `looked`: PHP was not started for the job.

    `times`: the result of `cron_times`. `beats`: the heartbeats by command, with `_` for `:`. `since`: when the tenant
    started or was opened again, from which on the time counts: what it missed while closed or off is not late at once.
    `awake`: when the last gap in the bot's checks ended. The machine may have been suspended then, or its clock set, so
    a job that is late only because of that is not known to be late, unless it fails later than CATCHES_UP seconds on.
    """
    states = {}
    for command, (period, limit) in times.items():
        beat = beats.get(command.replace(":", "_"), {})
        patience = 2 * period + (limit if beat.get("skipped") == "running" else 900)
        state = _cron_state(command, patience, beat, since, now)
        tried = not beat.get("skipped") and (_moment(beat.get("end")) or 0) > awake + CATCHES_UP
        known = not state["late"] or tried or _cron_state(command, patience, beat, max(since, awake), now)["late"]
        states[command] = state | {"late": state["late"] and known, "known": known}
    return states


def _cron_state(command: str, patience: int, beat: Beat, since: float, now: float) -> dict[str, Any]:
    last = _moment(beat.get("last_success"))
    late = now - max(last or 0, since) > patience
    looked = str(beat.get("looked")) in LOOKED and not beat.get("skipped")
    unused = now - max(_moment(beat.get("last_run")) or 0, since)
    every = _moment(beat.get("every")) or 0
    if not beat:
        why = "never ran"
    elif beat.get("skipped"):
        why = f"skipped: {beat['skipped']}"
    elif looked and not late and beat["looked"] == NOTHING and every and unused > 2 * every + patience:
        why, late = f"not run for {unused / 3600:.0f} hours, only looked at: nothing to do", True
    elif looked:
        why = LOOKED[beat["looked"]]
    else:
        why = f"exit code {beat.get('rc')}"
    late = late and command not in UNCONFIGURED
    return {"last_success": last, "rc": beat.get("rc"), "late": late, "why": why, "looked": looked}


def _moment(told: Any) -> float | None:
    """Return a number from a heartbeat, None if it is not a number."""
    return told if isinstance(told, int | float) else None
