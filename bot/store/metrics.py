"""What was measured of tenants and hosts: every look for two days, then by the hour for sixty, then by the day.

All figures of one sweep have the same time. A mean stays a mean when it is rolled up; of what fills up or piles up the
highest is kept. How it all grows is told by `bot.store.growth`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bot.store.database import Database

RAW, HOUR, DAY = 0, 3600, 86_400
KEEP = {RAW: 2 * DAY, HOUR: 60 * DAY}
"""Seconds that looks and hours are kept; days stay."""


@dataclass(frozen=True)
class Reading:
    """What one look at a tenant measured; None is what could not be seen. `up`: its page was there.

    `disk` in bytes as its limit counts them, `disk_limit`; `memory` as the tenant itself counts it, without what gives
    way; `cpu_time` in nanoseconds since the container's start, `page` and `queue_age` in seconds.
    """

    tenant: str
    up: bool | None = None
    page: float | None = None
    memory: int | None = None
    disk: int | None = None
    disk_limit: int | None = None
    cpu_time: int | None = None
    queue_age: float | None = None
    contacts: int | None = None
    log_errors: int | None = None


@dataclass(frozen=True)
class Sample:
    """A tenant at a moment, or over the hour or day that begins at `at` (epoch seconds; `span`: RAW, HOUR or DAY).

    `looks`: how many it is made of; `up`: the share of them in which the page was there; `page`, `memory` and `cpu`
    (cores in use) are means beside their highest; the others are the highest.
    """

    span: int
    at: int
    tenant: str
    looks: int
    up: float | None
    page: float | None
    page_max: float | None
    memory: float | None
    memory_max: int | None
    cpu: float | None
    cpu_max: float | None
    disk: int | None
    queue_age: float | None
    contacts: int | None
    log_errors: int | None


@dataclass(frozen=True)
class KnownDisk:
    """What a tenant used of its disk, in bytes, and its limit (None: not known), as measured last, at epoch seconds."""

    at: int
    used: int
    limit: int | None


@dataclass(frozen=True)
class Held:
    """How many snapshots a tenant had, and the bytes that they held, when they were measured last, at epoch seconds.

    At least so many: what several of them share, and nothing else has, is counted as no single one's.
    """

    at: int
    count: int
    held: int


@dataclass(frozen=True)
class HostReading:
    """What one look at a host measured: bytes of its pool and of its memory (None: not told), and its load."""

    used: int
    total: int
    memory: int | None = None
    memory_total: int | None = None
    load: float | None = None


@dataclass(frozen=True)
class HostSample:
    """A host at a moment, or at its fullest in the hour or day that begins at `at`: as in a `HostReading`."""

    span: int
    at: int
    host: str
    looks: int
    used: int
    total: int
    memory: int | None = None
    memory_total: int | None = None
    load: float | None = None


_TENANTS: Mapping[str, str] = {
    "up": "mean",
    "page": "mean",
    "page_max": "max",
    "memory": "mean",
    "memory_max": "max",
    "cpu": "mean",
    "cpu_max": "max",
    "disk": "max",
    "queue_age": "max",
    "contacts": "max",
    "log_errors": "max",
}
_HOSTS: Mapping[str, str] = {"used": "max", "total": "max", "memory": "max", "memory_total": "max", "load": "max"}


def record(
    transaction: sqlite3.Connection,
    at: float,
    readings: Sequence[Reading],
    hosts: Mapping[str, HostReading],
    until: Callable[[float], float] | None = None,
) -> None:
    """Write down one sweep: its readings of tenants, and of hosts by name. Then roll up what is over.

    `until` as `Uptime.before`, for what is forgotten; None: by the wall clock alone.
    """
    now = int(at)
    before = {
        row["tenant"]: row
        for row in transaction.execute(
            "SELECT tenant, at, cpu_time FROM tenant_samples"
            " WHERE span = 0 AND at = (SELECT max(at) FROM tenant_samples WHERE span = 0 AND at < ?)",
            (now,),
        )
    }
    transaction.executemany(
        "INSERT OR REPLACE INTO tenant_samples (span, at, tenant, looks, up, page, page_max, memory, memory_max, cpu,"
        " cpu_max, disk, queue_age, contacts, log_errors, cpu_time) VALUES (0,?,?,1,?,?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                now,
                one.tenant,
                one.up,
                one.page,
                one.page,
                one.memory,
                one.memory,
                cores := _cores(one, now, before.get(one.tenant)),
                cores,
                one.disk,
                one.queue_age,
                one.contacts,
                one.log_errors,
                one.cpu_time,
            )
            for one in readings
        ],
    )
    transaction.executemany(
        "INSERT OR REPLACE INTO host_samples (span, at, host, looks, used, total, memory, memory_total, load)"
        " VALUES (0,?,?,1,?,?,?,?,?)",
        [(now, host, one.used, one.total, one.memory, one.memory_total, one.load) for host, one in hosts.items()],
    )
    transaction.executemany(
        "INSERT OR REPLACE INTO tenant_disks (tenant, at, used, size) VALUES (?,?,?,?)",
        [(one.tenant, now, one.disk, one.disk_limit) for one in readings if one.disk is not None],
    )
    roll_up(transaction, at, until or (lambda age: at - age))


def _cores(reading: Reading, at: int, before: sqlite3.Row | None) -> float | None:
    """Cores in use since the look before; None after a restart, which begins the count anew."""
    if reading.cpu_time is None or before is None or before["cpu_time"] is None:
        return None
    used = reading.cpu_time - before["cpu_time"]
    return used / 1e9 / (at - before["at"]) if used >= 0 else None


def roll_up(transaction: sqlite3.Connection, now: float, until: Callable[[float], float]) -> None:
    """Make hours of looks and days of hours, once they are over, and forget what is older than its keeping.

    Decides from what there is: after any downtime the next call makes all that is missing, and twice changes nothing.
    """
    for table, subject, kinds in (("tenant_samples", "tenant", _TENANTS), ("host_samples", "host", _HOSTS)):
        merged = ", ".join(
            f"total(1.0 * {name} * looks) / sum(looks * ({name} IS NOT NULL))" if kind == "mean" else f"max({name})"
            for name, kind in kinds.items()
        )
        for finer, span in ((RAW, HOUR), (HOUR, DAY)):
            # What a clock that was ahead left in the future is none of its past, and stays.
            transaction.execute(
                f"INSERT OR IGNORE INTO {table} (span, at, {subject}, looks, {', '.join(kinds)})"  # noqa: S608
                f" SELECT :span, at / :span * :span AS start, {subject}, sum(looks), {merged} FROM {table}"
                " WHERE span = :finer AND at < :now / :span * :span"
                f" AND at >= (SELECT coalesce(max(at), -:span) + :span FROM {table}"
                " WHERE span = :span AND at < :now / :span * :span)"
                f" GROUP BY start, {subject}",
                {"span": span, "finer": finer, "now": int(now)},
            )
            # Never what is not rolled up yet: the hour or day that it belongs to is over.
            transaction.execute(
                f"DELETE FROM {table} WHERE span = ? AND at < ?",  # noqa: S608
                (finer, max(until(KEEP[finer]), 0) // span * span),
            )


def history(database: Database, tenant: str, since: float, now: float, span: int = HOUR) -> list[Sample]:
    """Return a tenant's past, oldest first, by the hour (or DAY; RAW: each look), with the end that is not over yet."""
    return [Sample(**row) for row in _past(database, "tenant_samples", "tenant", tenant, since, now, span)]


def pool_history(database: Database, host: str, since: float, now: float, span: int = HOUR) -> list[HostSample]:
    """Return the past of a host's pool, oldest first, as `history` does."""
    return [HostSample(**row) for row in _past(database, "host_samples", "host", host, since, now, span)]


def _past(
    database: Database, table: str, column: str, subject: str, since: float, now: float, span: int
) -> list[dict[str, Any]]:
    """Read the coarse rows, then the finer ones of what is not rolled up."""
    found: list[dict[str, Any]] = []
    for level in (DAY, HOUR, RAW):
        if level <= span:
            rows = database.read(
                f"SELECT * FROM {table} WHERE span = ? AND {column} = ? AND at BETWEEN ? AND ? ORDER BY at",  # noqa: S608
                level,
                subject,
                since,
                now,
            )
            found += [{name: row[name] for name in row.keys() if name != "cpu_time"} for row in rows]  # noqa: SIM118
            since = max(since, found[-1]["at"] + level) if found else since
    return found


def latest(database: Database, now: float) -> dict[str, Sample]:
    """Return what the last sweep measured, by tenant."""
    rows = database.read(
        "SELECT * FROM tenant_samples"
        " WHERE span = 0 AND at = (SELECT max(at) FROM tenant_samples WHERE span = 0 AND at <= ?)",
        now,
    )
    return {row["tenant"]: Sample(**{name: row[name] for name in row.keys() if name != "cpu_time"}) for row in rows}  # noqa: SIM118


def day_before(database: Database, tenant: str, at: float) -> tuple[float | None, int | None]:
    """Return the seconds of a tenant's page on average, and its most log errors, on the day before a moment."""
    row = database.read(
        "SELECT avg(page) AS page, max(log_errors) AS errors FROM tenant_samples"
        " WHERE tenant = ? AND span = 3600 AND at BETWEEN ? AND ?",
        tenant,
        at - DAY,
        at - HOUR,
    )[0]
    return row["page"], row["errors"]


def hosts(database: Database, now: float) -> dict[str, HostSample]:
    """Return what the last sweep measured of hosts, by name."""
    rows = database.read(
        "SELECT * FROM host_samples"
        " WHERE span = 0 AND at = (SELECT max(at) FROM host_samples WHERE span = 0 AND at <= ?)",
        now,
    )
    return {row["host"]: HostSample(**dict(row)) for row in rows}


def highest(database: Database, since: float, now: float) -> dict[str, int]:
    """Return the most memory in bytes that each tenant used since then, by day and hour, and at the last look."""
    # Days that are over for long are rolled up; yesterday's hours may not be yet.
    hours = max(int(since) // HOUR * HOUR, int(now) // DAY * DAY - DAY)
    rows = database.read(
        "SELECT tenant, max(memory_max) AS most FROM tenant_samples"
        " WHERE (span = 86400 AND at >= ?1 AND at < ?2 OR span = 3600 AND at BETWEEN ?2 AND ?3 OR span = 0"
        " AND at = (SELECT max(at) FROM tenant_samples WHERE span = 0 AND at <= ?3))"
        " AND memory_max IS NOT NULL GROUP BY tenant",
        int(since) // DAY * DAY,
        hours,
        now,
    )
    return {row["tenant"]: row["most"] for row in rows}


def queued_since(database: Database, since: float, now: float) -> set[str]:
    """Return the tenants in which mail was seen to wait for its worker since then, in the last two days."""
    rows = database.read(
        "SELECT DISTINCT tenant FROM tenant_samples WHERE span = 0 AND at BETWEEN ? AND ? AND queue_age > 0", since, now
    )
    return {row["tenant"] for row in rows}


def busy_since(database: Database, since: float, now: float) -> set[str]:
    """Return the tenants that got or lost contacts since then, or in which mail waited, by the hour and the last look.

    Contacts are counted at their highest of each hour.
    """
    rows = database.read(
        "SELECT tenant FROM tenant_samples WHERE (span = 3600 AND at BETWEEN ?1 AND ?2 OR span = 0"
        " AND at = (SELECT max(at) FROM tenant_samples WHERE span = 0 AND at <= ?2))"
        " GROUP BY tenant HAVING max(contacts) > min(contacts) OR max(queue_age) > 0",
        int(since) // HOUR * HOUR,
        now,
    )
    return {row["tenant"] for row in rows}


def disks(database: Database) -> dict[str, KnownDisk]:
    """Return what is known of each tenant's disk, also of those that no sweep can measure now, as they do not run."""
    rows = database.read("SELECT * FROM tenant_disks")
    return {row["tenant"]: KnownDisk(row["at"], row["used"], row["size"]) for row in rows}


def note_snapshots(database: Database, tenant: str, at: float, sizes: Iterable[int]) -> None:
    """Keep what a tenant's snapshots hold, by the bytes that each of them alone does."""
    held = list(sizes)
    with database.transaction() as transaction:
        transaction.execute(
            "INSERT OR REPLACE INTO tenant_snapshots (tenant, at, count, held) VALUES (?,?,?,?)",
            (tenant, int(at), len(held), sum(held)),
        )


def snapshots(database: Database) -> dict[str, Held]:
    """Return what each tenant's snapshots were found to hold last."""
    rows = database.read("SELECT * FROM tenant_snapshots")
    return {row["tenant"]: Held(row["at"], row["count"], row["held"]) for row in rows}


def looked_at(database: Database, now: float) -> dict[str, int]:
    """Return when each tenant was looked at last, of those that were in the last two days."""
    rows = database.read(
        "SELECT tenant, max(at) AS at FROM tenant_samples WHERE span = 0 AND at <= ? GROUP BY tenant", now
    )
    return {row["tenant"]: row["at"] for row in rows}


def looked_since(database: Database, at: float) -> dict[str, bool]:
    """Return the tenants that were looked at since then, and whether their page was there the last time."""
    # SQLite gives the other columns of the row that has the maximum.
    sql = "SELECT tenant, up, max(at) FROM tenant_samples WHERE span = 0 AND at >= ? GROUP BY tenant"
    return {row["tenant"]: bool(row["up"]) for row in database.read(sql, at)}


def down_since(database: Database, at: float) -> set[str]:
    """Return the tenants that were down at a look until then, and up at none since."""
    rows = database.read(
        "SELECT tenant FROM tenant_samples WHERE span = 0 GROUP BY tenant"
        " HAVING max(iif(up = 0 AND at <= ?, at, 0)) > max(iif(up > 0, at, 0))",
        at,
    )
    return {row["tenant"] for row in rows}


def awake_since(database: Database, now: float) -> float:
    """Return since when there has been a look at least every half hour; 0 without any."""
    rows = database.read(
        "SELECT max(at) AS at FROM (SELECT at, lag(at) OVER (ORDER BY at) AS before FROM"
        " (SELECT DISTINCT at FROM host_samples WHERE span = 0 AND at <= ?))"
        " WHERE before IS NULL OR at - before > 1800",
        now,
    )
    return float(rows[0]["at"] or 0)
