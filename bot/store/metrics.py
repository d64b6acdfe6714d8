"""Measurements of tenants and hosts: every look for two days, then by the hour for sixty, then by the day.

All figures of one sweep have the same time. Means are rolled up to means; of figures that fill up or pile up the
highest is kept. `bot.store.growth` computes how fast they grow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bot.store.database import Database

RAW, HOUR, DAY = 0, 3600, 86_400
KEEP = {RAW: 2 * DAY, HOUR: 60 * DAY}
"""Seconds that single looks and hours are kept; days are kept for ever."""
AWAY = 900
"""Seconds without a look at a host from which on the bot, or the host, counts as having been away: suspended, off, or
with a clock that was set. A sweep comes every five minutes, and Mautic's most frequent job is late after 17."""


@dataclass(frozen=True)
class Reading:
    """What one look at a tenant measured; None where it could not be measured. `up`: its page was there.

    `disk` and `disk_limit` in bytes, as the limit counts them; `memory` in bytes as the tenant itself counts it,
    without reclaimable memory; `cpu_time` in nanoseconds since the container's start; `page` and `queue_age` in
    seconds.
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

    `looks`: the number of looks in it; `up`: the share of them in which the page was there; `page`, `memory` and `cpu`
    (cores in use) are means, beside their highest values; the others are the highest values.
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
    """The last measurement of a tenant's disk: bytes used, the limit (None: unknown), and when, in epoch seconds."""

    at: int
    used: int
    limit: int | None


@dataclass(frozen=True)
class Held:
    """The last measurement of a tenant's snapshots: their number, the bytes that they hold, and when, in epoch seconds.

    They hold at least so many bytes: data that only several of them share is counted for none of them.
    """

    at: int
    count: int
    held: int


@dataclass(frozen=True)
class HostReading:
    """What one look at a host measured: bytes of its pool and of its memory (None: unknown), and its load."""

    used: int
    total: int
    memory: int | None = None
    memory_total: int | None = None
    load: float | None = None


@dataclass(frozen=True)
class HostSample:
    """A host at a moment, or its highest values in the hour or day that begins at `at`; fields as in `HostReading`."""

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
    """Store one sweep: its readings of tenants, and of hosts by name. Then roll up what is over.

    `until`: returns the time before which rows of a given age in seconds are deleted, as `Uptime.before` does; None: by
    the wall clock alone.
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
    """Return the cores in use since the look before; None after a restart, which resets the count."""
    if reading.cpu_time is None or before is None or before["cpu_time"] is None:
        return None
    used = reading.cpu_time - before["cpu_time"]
    return used / 1e9 / (at - before["at"]) if used >= 0 else None


def roll_up(transaction: sqlite3.Connection, now: float, until: Callable[[float], float]) -> None:
    """Summarise looks to hours and hours to days, once these are over, and delete rows older than `KEEP`.

    Decides from the rows that exist: after any downtime the next call makes all that is missing, and a second call
    changes nothing.
    """
    for table, subject, kinds in (("tenant_samples", "tenant", _TENANTS), ("host_samples", "host", _HOSTS)):
        merged = ", ".join(
            f"total(1.0 * {name} * looks) / sum(looks * ({name} IS NOT NULL))" if kind == "mean" else f"max({name})"
            for name, kind in kinds.items()
        )
        for finer, span in ((RAW, HOUR), (HOUR, DAY)):
            # Rows that a clock which was ahead left in the future are not part of the past, and stay.
            transaction.execute(
                f"INSERT OR IGNORE INTO {table} (span, at, {subject}, looks, {', '.join(kinds)})"  # noqa: S608
                f" SELECT :span, at / :span * :span AS start, {subject}, sum(looks), {merged} FROM {table}"
                " WHERE span = :finer AND at < :now / :span * :span"
                f" AND at >= (SELECT coalesce(max(at), -:span) + :span FROM {table}"
                " WHERE span = :span AND at < :now / :span * :span)"
                f" GROUP BY start, {subject}",
                {"span": span, "finer": finer, "now": int(now)},
            )
            # Never rows that are not rolled up yet: only those of hours or days that are over are deleted.
            transaction.execute(
                f"DELETE FROM {table} WHERE span = ? AND at < ?",  # noqa: S608
                (finer, max(until(KEEP[finer]), 0) // span * span),
            )


def history(database: Database, tenant: str, since: float, now: float, span: int = HOUR) -> list[Sample]:
    """Return a tenant's past, oldest first, by HOUR (or DAY; RAW: each look); what is not over yet in finer samples."""
    return [Sample(**row) for row in _past(database, "tenant_samples", "tenant", tenant, since, now, span)]


def pool_history(database: Database, host: str, since: float, now: float, span: int = HOUR) -> list[HostSample]:
    """Return the past of a host's pool, oldest first, as `history` does."""
    return [HostSample(**row) for row in _past(database, "host_samples", "host", host, since, now, span)]


def _past(
    database: Database, table: str, column: str, subject: str, since: float, now: float, span: int
) -> list[dict[str, Any]]:
    """Read the coarse rows, then the finer ones of the time that is not rolled up yet."""
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
    """Return a tenant's average page seconds, and its highest number of log errors, on the day before a moment."""
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
    """Return the most memory in bytes that each tenant used since a moment, by days, hours and the last look."""
    # Earlier days are rolled up; yesterday's hours may not be yet.
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
    """Return the tenants in which a look since a moment saw mail wait for its worker; looks are kept for two days."""
    rows = database.read(
        "SELECT DISTINCT tenant FROM tenant_samples WHERE span = 0 AND at BETWEEN ? AND ? AND queue_age > 0", since, now
    )
    return {row["tenant"] for row in rows}


def busy_since(database: Database, since: float, now: float) -> set[str]:
    """Return the tenants that gained or lost contacts, or in which mail waited, since a moment.

    Decides from the hours, each with its highest number of contacts, and the last look.
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
    """Return the last known disk use of each tenant, including those that do not run, which no sweep can measure."""
    rows = database.read("SELECT * FROM tenant_disks")
    return {row["tenant"]: KnownDisk(row["at"], row["used"], row["size"]) for row in rows}


def note_snapshots(database: Database, tenant: str, at: float, sizes: Iterable[int]) -> None:
    """Store what a tenant's snapshots hold; `sizes`: the bytes that each of them alone holds."""
    held = list(sizes)
    with database.transaction() as transaction:
        transaction.execute(
            "INSERT OR REPLACE INTO tenant_snapshots (tenant, at, count, held) VALUES (?,?,?,?)",
            (tenant, int(at), len(held), sum(held)),
        )


def snapshots(database: Database) -> dict[str, Held]:
    """Return the last measurement of each tenant's snapshots, by tenant."""
    rows = database.read("SELECT * FROM tenant_snapshots")
    return {row["tenant"]: Held(row["at"], row["count"], row["held"]) for row in rows}


def looked_at(database: Database, now: float) -> dict[str, int]:
    """Return when each tenant was last looked at, in epoch seconds; only those looked at within two days."""
    rows = database.read(
        "SELECT tenant, max(at) AS at FROM tenant_samples WHERE span = 0 AND at <= ? GROUP BY tenant", now
    )
    return {row["tenant"]: row["at"] for row in rows}


def looked_since(database: Database, at: float, now: float) -> dict[str, bool]:
    """Return the tenants that were looked at since a moment, and whether their page was there the last time."""
    # SQLite takes the other columns from the row that has the maximum.
    sql = "SELECT tenant, up, max(at) FROM tenant_samples WHERE span = 0 AND at BETWEEN ? AND ? GROUP BY tenant"
    return {row["tenant"]: bool(row["up"]) for row in database.read(sql, at, now)}


def down_since(database: Database, at: float, now: float) -> set[str]:
    """Return the tenants that were down at a look up to a moment, and have been up at none since that look."""
    rows = database.read(
        "SELECT tenant FROM tenant_samples WHERE span = 0 AND at <= ? GROUP BY tenant"
        " HAVING max(iif(up = 0 AND at <= ?, at, 0)) > max(iif(up > 0, at, 0))",
        now,
        at,
    )
    return {row["tenant"] for row in rows}


def awake_since(database: Database, now: float) -> dict[str, float]:
    """Return since when (epoch seconds) each host has been looked at without a gap of more than AWAY seconds.

    It is `now` where the last look is longer ago than that: the gap ends now. Hosts without any look are missing.
    """
    rows = database.read(
        """
        WITH first AS (
          SELECT host, min(iif(span = 0, at, NULL)) AS look, min(iif(span = 3600, at, NULL)) AS hour FROM host_samples
          WHERE at <= ?1 GROUP BY host),
        past AS (
          -- Each look, then the hours before all of them, then the days before all hours.
          SELECT host, at, at + span AS until FROM host_samples JOIN first USING (host)
          WHERE at <= ?1 AND (span = 0 OR span = 3600 AND at + span <= look OR span = 86400 AND at + span <= hour)),
        gaps AS (SELECT host, at, until, at - lag(until) OVER (PARTITION BY host ORDER BY at) AS gap FROM past)
        SELECT host, max(until) AS last, max(at) FILTER (WHERE gap IS NULL OR gap > ?2) AS since FROM gaps GROUP BY host
        """,
        now,
        AWAY,
    )
    return {row["host"]: now if now - row["last"] > AWAY else float(row["since"]) for row in rows}
