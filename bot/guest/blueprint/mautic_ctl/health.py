# ruff: noqa: S608 - SQL is made of constants
"""`health`: checks services, jobs, queues, logs, disk and memory, which Mautic itself never reports."""

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from . import due, outbound
from .crons import CATCHES_UP, cron_states, cron_times
from .disk import measure
from .install import BASELINE
from .logs import MAUTICS
from .page import login_page
from .parameters import LOCAL, PROVIDER
from .system import (
    BEATS,
    CLOSED,
    CRONTAB,
    FPM,
    IDENTITY,
    MAUTIC,
    asked,
    in_words,
    mautic_version,
    read_json,
    run,
    sql,
)
from .version import furniture_version
from .workers import LOOK, LOOK_UNIT, workers

SERVICES = ("mariadb", FPM, "nginx", "cron")
CRON_RUNS = Path("/run/crond.pid")
"""The file that cron writes at each start."""
UPTIME = Path("/proc/uptime")
PAGE_LATE = 8.0
"""Seconds that the login page may take: the caller waits twenty seconds for the whole health check."""

FAILED = "failed"
"""The queue of messages that Mautic gave up on; no worker takes them."""
MOST = 5000
"""The most rows that are read where rows are found one by one; a figure as high as this means “many”."""
MOST_READ = 2000
"""The most messages whose bodies are read to tell their kind: some are as long as mails get."""
# Each query is quick with 1,000,000 contacts and 5,000,000 mails, and while they are sent (`tests/bot/blueprint/
# test_large_tenants.py`): it counts within an index or, without a sufficient index, at most MOST rows.
# All messages in a queue wait except those being delivered, and the oldest is the first that came in. Segments are
# stale only if none was built lately: then their job does not run, while a single stale segment may have a filter that
# Mautic cannot build. Webhooks that a client's endpoint refused, which Mautic notes since 7, wait for that endpoint and
# do not count.
HEALTH_SQL = f"""
SET time_zone = '+00:00';
SELECT 'contacts', COUNT(*), COALESCE(SUM(date_identified IS NOT NULL), 0) FROM leads;
SELECT 'users', COALESCE(UNIX_TIMESTAMP(MAX(last_login)), 0), COALESCE(UNIX_TIMESTAMP(MAX(last_active)), 0) FROM users;
SELECT 'stale_segments', COUNT(*) FROM lead_lists WHERE {due.SEGMENTS}
  AND COALESCE(last_built_date, date_added) < UTC_TIMESTAMP() - INTERVAL 2 HOUR
  AND COALESCE(date_modified, date_added) < UTC_TIMESTAMP() - INTERVAL 1 HOUR
  AND NOT EXISTS (SELECT 1 FROM lead_lists WHERE {due.SEGMENTS}
    AND last_built_date >= UTC_TIMESTAMP() - INTERVAL 2 HOUR);
SELECT 'overdue_events', COUNT(*) FROM (
  SELECT 1 FROM campaign_lead_event_log l JOIN campaigns c ON c.id = l.campaign_id
  WHERE {due.EVENTS} AND l.trigger_date < UTC_TIMESTAMP() - INTERVAL 1 HOUR
  AND COALESCE(c.publish_up, l.trigger_date) < UTC_TIMESTAMP() - INTERVAL 1 HOUR
  AND COALESCE(c.date_modified, l.trigger_date) < UTC_TIMESTAMP() - INTERVAL 1 HOUR LIMIT {MOST}) late;
SELECT 'failed_events', COUNT(*) FROM campaign_lead_event_failed_log
  WHERE date_added > UTC_TIMESTAMP() - INTERVAL 1 DAY;
SELECT 'queue', q.queue_name, q.n - COALESCE(d.n, 0) AS due, COALESCE(GREATEST(0, TIMESTAMPDIFF(SECOND, (
    SELECT m.available_at FROM messenger_messages m WHERE m.queue_name = q.queue_name AND m.delivered_at IS NULL
    AND m.available_at <= UTC_TIMESTAMP() ORDER BY m.id LIMIT 1), UTC_TIMESTAMP())), 0)
  FROM (SELECT queue_name, COUNT(*) AS n FROM messenger_messages WHERE queue_name <> '{FAILED}' GROUP BY queue_name) q
  LEFT JOIN (SELECT queue_name, COUNT(*) AS n FROM messenger_messages WHERE delivered_at IS NOT NULL
    GROUP BY queue_name) d USING (queue_name) HAVING due > 0;
SELECT 'failed_mails', given_up.n - hits.n, given_up.day - hits.day FROM (
    SELECT (SELECT COUNT(*) FROM messenger_messages WHERE queue_name = '{FAILED}') AS n,
    COALESCE(SUM(created_at > UTC_TIMESTAMP() - INTERVAL 1 DAY), 0) AS day FROM (
      SELECT created_at FROM messenger_messages WHERE queue_name = '{FAILED}' ORDER BY id DESC LIMIT {MOST}) newest
  ) given_up JOIN (
    SELECT COUNT(*) AS n, COALESCE(SUM(created_at > UTC_TIMESTAMP() - INTERVAL 1 DAY), 0) AS day FROM (
      SELECT created_at, body FROM messenger_messages WHERE queue_name = '{FAILED}'
      ORDER BY id DESC LIMIT {MOST_READ}) newest WHERE {outbound.A_HIT}) hits;
SELECT 'message_queue', COUNT(*) FROM (SELECT 1 FROM message_queue m WHERE {due.MESSAGES}
  AND m.scheduled_date < UTC_TIMESTAMP() - INTERVAL 1 HOUR LIMIT {MOST}) late;
SELECT 'webhook_queue', COUNT(*) FROM (
  SELECT 1 FROM {due.SINCE_7} JOIN webhook_queue q JOIN webhooks w ON w.id = q.webhook_id WHERE {due.WEBHOOKS}
  AND q.date_added < UTC_TIMESTAMP() - INTERVAL 1 HOUR
  AND COALESCE(w.date_modified, q.date_added) < UTC_TIMESTAMP() - INTERVAL 1 HOUR
  AND EXISTS (SELECT 1 FROM webhook_queue n JOIN webhooks h ON h.id = n.webhook_id
    WHERE n.id = q.id AND retries = 0 AND marked_unhealthy_at IS NULL) LIMIT {MOST}) late;
SELECT 'waiting_imports', COUNT(*) FROM imports WHERE {due.IMPORTS}
  AND COALESCE(date_modified, date_added) < UTC_TIMESTAMP() - INTERVAL 2 HOUR
  AND NOT EXISTS (SELECT 1 FROM imports r WHERE r.status = 2 AND r.date_modified > UTC_TIMESTAMP() - INTERVAL 2 HOUR);
SELECT 'died_imports', COUNT(*) FROM imports WHERE status = 2
  AND date_modified BETWEEN UTC_TIMESTAMP() - INTERVAL 1 DAY AND UTC_TIMESTAMP() - INTERVAL 2 HOUR;
SELECT 'late_exports', COUNT(*) FROM contact_export_scheduler WHERE {due.EXPORTS}
  AND scheduled_datetime < UTC_TIMESTAMP() - INTERVAL 1 HOUR;
SELECT 'late_reports', COUNT(*) FROM reports_schedulers WHERE {due.REPORTS}
  AND schedule_date < UTC_TIMESTAMP() - INTERVAL 1 HOUR;
SELECT 'emails_day', (SELECT COUNT(*) FROM email_stats WHERE date_sent > UTC_TIMESTAMP() - INTERVAL 1 DAY),
  COALESCE(SUM(date_sent > UTC_TIMESTAMP() - INTERVAL 1 DAY), 0) FROM (
    SELECT date_sent FROM email_stats WHERE is_failed = 1 ORDER BY id DESC LIMIT {MOST}) newest;
SELECT 'migrations', COUNT(*) FROM migrations;
"""
OVERDUE = (
    "stale_segments",
    "overdue_events",
    "message_queue",
    "webhook_queue",
    "waiting_imports",
    "died_imports",
    "late_exports",
    "late_reports",
)
"""The figures of HEALTH_SQL that mean overdue work. An import that died is never resumed: it is reported for a day."""
HELD = ("overdue_events", "message_queue", "late_exports", "late_reports")
"""The figures of overdue work that waits on purpose while outbound mail is off."""
ABOUT_TO_RUN = frozenset(["active", "activating", "reloading"])
"""States of a service that is not down: a worker ends each hour and waits for its restart. A service that cannot start
shows in the work that it does not do."""


def health(request: Mapping[str, Any]) -> dict[str, Any]:
    """Check everything that Mautic itself never reports: services, jobs, queues, logs, disk and memory.

    Request: limits (above which each figure is bad, as in [health] of the settings; 0: never), memory? (of the plan, in
    bytes), disk? (what the bot knows of the disk, see `disk.measure`), awake? (for how many seconds the bot has looked
    without a gap; by default for long). Returns healthy, checks {name: {ok, text, known?}}, facts {…}. `known` is False
    for what could not be measured, and for what is late only because of the gap.
    """
    (limits,) = asked(request, "limits")
    awake = request.get("awake", time.time())
    checks: dict[str, dict[str, Any]] = {}

    def check(name: str, ok: bool, text: str, known: bool = True) -> None:
        checks[name] = {"ok": ok or not known, "text": text} | ({} if ok or known else {"known": False})

    known = read_json(IDENTITY)
    version = mautic_version()
    facts: dict[str, Any] = {"version": version, "double": "double" in version, "closed": CLOSED.exists()}
    check("open", not CLOSED.exists(), "closed to the public" if CLOSED.exists() else "open")

    facts["services"] = states = _unit_states()
    down = [f"{name} is {state}" for name, state in states.items() if state not in ABOUT_TO_RUN]
    check("services", not down, ", ".join(down) or f"{len(states)} active")
    try:
        status, is_login, seconds = login_page(known.get("domain", "localhost"), PAGE_LATE)
        check("login page", is_login, f"{status} in {seconds:.2f} s")
    except OSError as error:
        # A timeout has no text of its own.
        check("login page", False, f"nginx does not answer ({error.strerror or 'it took too long'})")

    began = _past(float(known.get("since", time.time())))
    since = max(began, _jobs_run_since())
    rows: dict[str, list[list[str]]] = {}
    for label, *values in sql(HEALTH_SQL, "mautic", force=True):
        rows.setdefault(label, []).append(values)
    facts["database"] = "contacts" in rows
    check("database", facts["database"], "answers" if facts["database"] else "does not answer")
    if facts["database"]:
        (facts["contacts"], facts["identified"]) = map(int, rows["contacts"][0])
        (facts["last_login"], facts["last_active"]) = map(int, rows["users"][0])
        sent = rows.get("emails_day", [["0", "0"]])[0]
        (facts["emails_day"], facts["emails_failed_day"]) = map(int, sent)
        # A table that this version of Mautic lacks counts as empty.
        for name in (*OVERDUE, "failed_events"):
            facts[name] = int(rows.get(name, [["0"]])[0][0])
        if not _queues_webhooks():
            facts["webhook_queue"] = 0
        if outbound.OFF.exists():
            facts |= dict.fromkeys(HELD, 0)
        waiting = [f"{facts[name]} {name.replace('_', ' ')}" for name in OVERDUE if facts[name]]
        on_time = not waiting or time.time() - since < CATCHES_UP
        check("work", on_time, ", ".join(waiting) or "on time", awake >= CATCHES_UP)
        facts["queues"] = queues = {name: {"due": int(n), "age": int(age)} for name, n, age in rows.get("queue", [])}
        # The time in which the tenant was closed or off does not count as waiting.
        open_for = int(time.time() - max(began, _workers_run_since()))
        waited = {name: min(queue["age"], open_for) for name, queue in queues.items()}
        facts["outbound_off"] = off = outbound.held()
        if off:
            # Its mail waits on purpose.
            waited["email"] = 0
        facts["queue_age"] = max(waited.values(), default=0)
        bad = [f"{queue['due']} in {name}, oldest {in_minutes(queue['age'])}" for name, queue in queues.items()
               if above(waited[name], limits["queue_minutes"] * 60)]  # fmt: skip
        text = "; ".join(bad) or f"{sum(queue['due'] for queue in queues.values())} waiting"
        check("queues", not bad, text, awake > min(limits["queue_minutes"] * 60, CATCHES_UP))
        kept, given_up = map(int, rows.get("failed_mails", [["0", "0"]])[0])
        failed = given_up + facts["emails_failed_day"]
        facts["failed_mails"] = {"day": failed, "kept": kept}
        check("failed mail", not failed, str(failed) if failed else "none")

    facts["crons"] = crons = cron_states(
        cron_times(CRONTAB.read_text()),
        {path.stem: read_json(path) for path in BEATS.glob("*.json")},
        since,
        time.time(),
        time.time() - awake,
    )
    late_jobs = [f"{name} ({cron['why']})" for name, cron in crons.items() if cron["late"]]
    unknown = sum(not cron["known"] for cron in crons.values())
    text = f"{len(crons) - unknown} on time" + (f", {unknown} not run since the checks resumed" if unknown else "")
    check("crons", not (late_jobs or unknown), ", ".join(late_jobs) or text, bool(late_jobs))

    facts["log_errors_day"] = errors = _log_errors()
    check("log", not above(errors, limits["log_errors"]), str(errors))
    facts["disk"] = disk = measure(request.get("disk") or {})
    more = f", {in_words(disk['free'])} free"
    check("disk", *within(disk["used"], disk["limit"], limits["disk"], more, disk["why"]))
    checks["disk"]["known"] = disk["used"] is not None
    facts["memory"], most = _memory()
    facts["memory_limit"] = most = most or request.get("memory")
    check("memory", *within(facts["memory"], most, limits["memory"]))
    facts["furniture"] = furniture_version()
    facts["migrations_baseline"] = read_json(BASELINE)
    facts["migrations_executed"] = int(rows["migrations"][0][0]) if "migrations" in rows else 0
    return {"healthy": all(item["ok"] for item in checks.values()), "checks": checks, "facts": facts}


def _queues_webhooks() -> bool:
    """Return whether webhooks are queued for their job; by default they are sent at once, and the job reads nothing."""
    for path in (PROVIDER, LOCAL):
        if path.exists() and (mode := re.search(r"""['"]queue_mode['"]\s*=>\s*['"](\w+)""", path.read_text())):
            return mode[1] == "command_process"
    return False


def _unit_states() -> dict[str, str]:
    look = [LOOK] if LOOK_UNIT.exists() else []
    units = [*SERVICES, *look, *(unit.removesuffix(".service") for unit in workers())]
    return dict(zip(units, run("systemctl", "is-active", *units).stdout.split(), strict=False))


def _jobs_run_since() -> float:
    """Return when jobs could run again: at cron's start, or when a marker was removed, which changes its folder."""
    return max((_past(path.stat().st_mtime) for path in (CRON_RUNS, CLOSED.parent) if path.exists()), default=0.0)


def _workers_run_since() -> float:
    """Return when workers could run again: at boot, or when a marker was removed; their own restarts do not count."""
    return max(time.time() - float(UPTIME.read_text().split()[0]), _past(CLOSED.parent.stat().st_mtime))


def _past(at: float) -> float:
    """Return a recorded time; 0 if it is in the future, recorded by a clock that was ahead: it delays no alarm."""
    return at if at <= time.time() else 0.0


def count_errors(lines: Iterable[str], since: str) -> int:
    """Count log lines of level ERROR or worse that are not older than `since` (ISO time, UTC).

    `request.ERROR` does not count: it is a page that does not exist or is forbidden, and strangers request those all
    day.
    """
    pattern = re.compile(r"\[([^]]+)\] (?!request\.ERROR)\w+\.(ERROR|CRITICAL|ALERT|EMERGENCY):")
    return sum(1 for line in lines if (match := pattern.match(line)) and match[1] >= since)


def _log_errors() -> int:
    """Count the errors of the last day, in the last 4 MiB of each log."""
    now = datetime.now(UTC)
    total = 0
    days = (now - timedelta(days=1), now)
    for path in (MAUTIC / "var/logs" / pattern.replace("*", f"{day:%Y-%m-%d}") for pattern in MAUTICS for day in days):
        if path.exists():
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - (4 << 20)))
                lines = log.read().decode(errors="replace").splitlines()
            total += count_errors(lines, (now - timedelta(days=1)).isoformat())
    return total


def above(figure: float, limit: float) -> bool:
    """Return whether a figure is above its limit; a limit of 0 means that no figure is."""
    return bool(limit) and figure > limit


def within(used: int | None, limit: int | None, percent: float, more: str = "", why: str = "") -> tuple[bool, str]:
    """Return whether a figure is at most `percent` of its limit, and a text for people; an unknown figure is fine.

    `more` is added to the text. `why` explains why `used` is not known.
    """
    if used is None:
        return True, f"usage can't be measured{f' ({why})' if why else ''}{more}"
    if not limit:
        return True, f"{in_words(used)}, no limit{more}"
    return not above(used * 100, limit * percent), f"{in_words(used)} of {in_words(limit)} ({used / limit:.0%}){more}"


def in_minutes(seconds: float) -> str:
    """Return a duration for people: `40 s`, `90 min`, `5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _memory() -> tuple[int, int | None]:
    """Return the container's memory in use and its limit (None: no limit), in bytes, as its control group counts them.

    Memory that the kernel can reclaim is left out, as it fills up over time: cached files and the kernel's own caches.
    Shared memory, which a control group counts as cache, is included since it cannot be reclaimed. Returns (0, None)
    where the control group cannot be read.
    """
    for folder, usage, most, gives_way in (
        (Path("/sys/fs/cgroup"), "memory.current", "memory.max", ("active_file", "inactive_file", "slab_reclaimable")),
        (
            Path("/sys/fs/cgroup/memory"),
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            ("total_active_file", "total_inactive_file"),
        ),
    ):
        if (folder / usage).exists():
            figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = sum(int(figures.get(name, 0)) for name in gives_way)
            limit = (folder / most).read_text().strip()
            # Without a limit the file says "max", or the highest possible number.
            limited = limit.isdecimal() and int(limit) < 1 << 60
            return max(0, int((folder / usage).read_text()) - cached), int(limit) if limited else None
    return 0, None
