"""Finds problems that the tool inside a tenant reports: services, cron jobs, mail, the log and memory."""

from __future__ import annotations

from bot.fleet.health.look import Look, finds, listed
from bot.lxd.protocol import size_bytes
from bot.model.diagnosis import Found
from bot.model.text import seconds, size
from bot.settings import HealthSettings

ABOUT_TO_RUN = ("active", "activating", "reloading")
"""States in which a service does not count as down."""


def _down(look: Look, *names: str) -> str:
    """Return the services that do not run, as text, of those whose names begin with `names`; "" where all run."""
    return ", ".join(
        f"`{unit}` is {state}"
        for unit, state in look.facts["services"].items()
        if unit.startswith(names) and state not in ABOUT_TO_RUN
    )


@finds("web")
def web(look: Look, _: HealthSettings) -> Found | None:
    """Find a web server, or PHP, that does not run."""
    down = _down(look, "nginx", "php")
    return Found(f"{down}, so the site does not load.") if down else None


@finds("database")
def database(look: Look, _: HealthSettings) -> Found | None:
    """Find a database that does not run or answer."""
    down = _down(look, "mariadb") or ("" if look.facts["database"] else "MariaDB does not answer")
    return Found(f"{down}, so Mautic does not work.") if down else None


@finds("worker")
def worker(look: Look, _: HealthSettings) -> Found | None:
    """Find workers that do not run."""
    down = _down(look, "mautic-worker@")
    return Found(f"{down}, so e-mail waits in the queue.") if down else None


@finds("cron")
def cron(look: Look, _: HealthSettings) -> Found | None:
    """Find a cron that does not run."""
    down = _down(look, "cron")
    return Found(f"{down}, so segments, campaigns and imports are paused.") if down else None


@finds("look")
def needless(look: Look, _: HealthSettings) -> Found | None:
    """Find that the service which skips needless cron jobs does not run."""
    down = _down(look, "mautic-look")
    return Found(f"{down}, so PHP is started for each cron job, even when there is nothing to do.") if down else None


@finds("jobs")
def jobs(look: Look, _: HealthSettings) -> Found | None:
    """Find cron jobs that did not succeed in time."""
    late = [f"`{command}` ({job['why']})" for command, job in look.facts["crons"].items() if job["late"]]
    return Found(f"Not completed on time: {listed(late)}.") if late else None


@finds("queue")
def queue(look: Look, limits: HealthSettings) -> Found | None:
    """Find mail that has waited for its worker for too long."""
    age = look.facts.get("queue_age") or 0
    if age <= limits.queue_minutes * 60:
        return None
    return Found(f"The oldest e-mail in the queue has waited {seconds(age)}.")


@finds("failed")
def failed(look: Look, _: HealthSettings) -> Found | None:
    """Find mails that Mautic gave up on within the last day."""
    mails = look.facts.get("failed_mails") or {"day": 0, "kept": 0}
    if not mails["day"]:
        return None
    said = f"{mails['day']} e-mail{'s' if mails['day'] > 1 else ''} failed in the last 24 h"
    if not mails["kept"]:
        return Found(f"{said}.", {"nowhere": "yes"})
    return Found(f"{said}; {mails['kept']} can be retried.", {"kept": "yes"})


@finds("work")
def work(look: Look, _: HealthSettings) -> Found | None:
    """Find work that is overdue although the cron jobs run."""
    told = look.checks.get("work", {"ok": True})
    return None if told["ok"] else Found(f"Overdue although the cron jobs run: {told['text']}.")


@finds("log")
def log(look: Look, limits: HealthSettings) -> Found | None:
    """Find a log with many errors."""
    errors = look.facts["log_errors_day"]
    return Found(f"{errors} errors in the Mautic log in the last 24 h.") if errors > limits.log_errors else None


@finds("memory")
def memory(look: Look, limits: HealthSettings) -> Found | None:
    """Find memory that is nearly full."""
    limit = look.facts.get("memory_limit") or (size_bytes(look.size.memory) if look.size else 0)
    used = look.facts["memory"]
    if not limit or used * 100 <= limit * limits.memory:
        return None
    return Found(f"Memory {used / limit:.0%} used: {size(used)} of {size(limit)}.")
