"""Gathers for the digest what happened in the fleet since a moment, and what needs attention.

The module is a little longer than others, because each part of the digest is one query, and all are read together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bot.engine.context import Context
from bot.engine.placement import Carries, carries
from bot.fleet.bases import Stand, stands
from bot.fleet.health import last_known
from bot.fleet.inventory import TenantEntry
from bot.guest.blueprint.furniture import is_behind
from bot.lxd.protocol import Resources, size_bytes
from bot.model import findings
from bot.model.labels import is_open
from bot.model.tenants import Tenant
from bot.reports.condition import Condition, conditions, counted
from bot.slack.incidents import Incident, worst_first
from bot.store import audit, metrics
from bot.store.database import Database
from bot.store.freezes import Freeze, Freezes
from bot.store.growth import Growth, growth, pool_growth
from bot.store.jobs import Job
from bot.store.metrics import DAY, KnownDisk, Sample
from bot.store.operation import SYSTEM, Operation

T = TypeVar("T", Incident, Operation)
SNAPSHOT_DUE = 25 * 3600
"""Seconds within which each live tenant should get a snapshot where the policy keeps hourly or daily ones: a day, plus
the time that taking all of them may need."""
CATCHES_UP = 2 * 3600
"""Seconds in which the snapshots are taken that became due while the bot was away."""
SOON = 14
"""Report a disk or pool that will be full within this many days."""
TREND, PAST = 14 * DAY, 30 * DAY
"""Seconds of history from which growth is computed, and that the chart shows."""
MEASURES = ("disk", "memory")
"""The findings whose figures the digest shows for each tenant."""
SHOWN = 200
"""The most operations of people that are read completely; all of them are counted."""


@dataclass(frozen=True)
class Use:
    """Bytes used of a limit. `days`: in how many days it is full; None: no growth, or unknown.

    For memory it is always unknown, because a tenant that was just started still warms up. `past`: the history of a
    pool as (epoch seconds, used share), oldest first. `at`: when it was measured, if not in the last sweep, else 0.
    """

    used: int
    limit: int
    days: float | None
    past: tuple[tuple[float, float], ...] = ()
    at: float = 0

    @property
    def share(self) -> float:
        """Return the used share, 0 to 1, or more."""
        return self.used / self.limit if self.limit else 0.0

    def high(self, percent: int) -> bool:
        """Return whether it is above `percent`, or full within SOON days; never for 0 percent."""
        if not percent:
            return False
        return self.share * 100 > percent or (self.days is not None and self.days <= SOON)


@dataclass(frozen=True)
class TenantDay:
    """A tenant's day.

    `newest`: the age in seconds of the newest snapshot, None when there is none. `taken`: the number of snapshots that
    were taken, including deleted ones. `missing`: the snapshot is overdue; `waits`: it is so only because the bot was
    away, and is being taken. `disk` is None where it was never measured, `memory` where the last sweep did not measure
    it, and both where they have no limit. `high`: which of the two are nearly full.
    """

    name: str
    host: str
    condition: Condition
    disk: Use | None
    memory: Use | None
    high: tuple[str, ...]
    newest: float | None
    taken: int
    missing: bool
    incidents: tuple[Incident, ...]
    operations: tuple[Operation, ...]
    waits: bool = False

    @property
    def speaks(self) -> bool:
        """Return whether there is something to report about the tenant."""
        return bool(self.high or self.missing or self.incidents or self.operations or self.urgency[0])

    @property
    def urgency(self) -> tuple[int, bool, float]:
        """Return the sort key: the worst tenant has the highest."""
        fullest = max((use.share for use in (self.disk, self.memory) if use), default=0.0)
        unwell = {"offline": 2, "degraded": 1}.get(self.condition.word, 0)
        return unwell, self.missing, fullest


@dataclass(frozen=True)
class FailedMaintenance:
    """How often a command failed in maintenance, for which tenants, and the last error."""

    command: str
    times: int
    tenants: tuple[str, ...]
    outcome: str


@dataclass(frozen=True)
class Digest:
    """The fleet at `at`, with what happened since `since` (epoch seconds).

    silent: Why a server did not answer; its tenants are missing here.
    halted: The operations that came to a halt and wait for a person.
    open: The open incidents that no other part of the digest reports, the worst first.
    jobs: The failing jobs.
    taken: The number of snapshots that were taken, including those of deleted tenants.
    failed_maintenance: The failures of maintenance by command.
    ended: The number of people's operations by state and command.
    head: The sequence number and hash of the audit chain's last row.
    outbound_off: The tenants that send no mail.
    frozen: The freezes; `may_end` are the roles that may end other people's.
    behind: The tenants whose furniture is outdated, or whose heavy jobs have no slot.
    bases: The Debian base of each tenant.
    """

    at: float
    since: float
    tenants: tuple[TenantDay, ...]
    silent: Mapping[str, str]
    halted: tuple[Operation, ...]
    open: tuple[Incident, ...]
    jobs: tuple[Job, ...]
    taken: int
    recovered: int
    pools: Mapping[str, Use]
    full_pools: tuple[str, ...]
    carries: Mapping[str, Carries]
    waiting: tuple[Operation, ...]
    failed: tuple[Operation, ...]
    failed_maintenance: tuple[FailedMaintenance, ...]
    ended: Mapping[str, Mapping[str, int]]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    head: tuple[int, str]
    outbound_off: tuple[str, ...] = ()
    frozen: tuple[Freeze, ...] = ()
    may_end: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    bases: Mapping[str, Stand] = field(default_factory=dict)

    @property
    def unpatched(self) -> list[tuple[str, int]]:
        """Return the tenants that lack security updates of Debian, with the number of updates, the most first."""
        lacking = [(name, len(one.lacks)) for name, one in self.bases.items() if one.lacks]
        return sorted(lacking, key=lambda one: (-one[1], one[0]))

    @property
    def oldest(self) -> tuple[str, int] | None:
        """Return the tenant with the oldest Debian packages, and when they were installed; None where none is known."""
        known = [(name, one.at) for name, one in self.bases.items() if one.at]
        return min(known, key=lambda one: (one[1], one[0]), default=None)

    @property
    def words(self) -> list[tuple[str, int]]:
        """Return the number of tenants by condition, the worst first."""
        return counted(tenant.condition for tenant in self.tenants)

    @property
    def offline(self) -> list[str]:
        """Return the tenants that are offline."""
        return [tenant.name for tenant in self.tenants if tenant.condition.word == "offline"]

    @property
    def missing(self) -> list[TenantDay]:
        """Return the tenants whose snapshot is overdue, the oldest first."""
        found = [tenant for tenant in self.tenants if tenant.missing]
        return sorted(found, key=lambda tenant: -(tenant.newest or float("inf")))

    @property
    def full(self) -> list[TenantDay]:
        """Return the tenants close to their plan limit, the worst first."""
        return sorted((tenant for tenant in self.tenants if tenant.high), key=lambda one: one.urgency, reverse=True)

    @property
    def speaking(self) -> list[TenantDay]:
        """Return the tenants with something to report, the worst first."""
        return sorted((one for one in self.tenants if one.speaks), key=lambda one: one.urgency, reverse=True)

    @property
    def problems(self) -> int:
        """Return the number of things to check."""
        told = (self.halted, self.silent, self.open, self.jobs, self.missing, self.full, self.full_pools)
        return sum(len(things) for things in (*told, self.failed, self.failed_maintenance))

    @property
    def headline(self) -> str:
        """Return the worst of it in a few words: who is offline or degraded, else the number of things to check."""
        if self.well:
            return "all healthy" if self.tenants else "no tenants yet"
        words = dict(self.words)
        unwell = [(words[word], word) for word in ("offline", "degraded") if word in words]
        if not unwell:
            return f"{self.problems} thing{'s' if self.problems > 1 else ''} to check"
        if len(self.offline) == 1 and len(unwell) == 1:
            return f"{self.offline[0]} is offline"
        first = unwell[0][0]
        return ", ".join(
            [f"{first} client{'s' if first > 1 else ''} {unwell[0][1]}", *(f"{n} {w}" for n, w in unwell[1:])]
        )

    @property
    def fresh(self) -> bool:
        """Return whether every tenant has a snapshot younger than SNAPSHOT_DUE."""
        return all(tenant.newest is not None and tenant.newest <= SNAPSHOT_DUE for tenant in self.tenants)

    @property
    def waits(self) -> bool:
        """Return whether snapshots are overdue only because the bot was away."""
        return any(tenant.waits for tenant in self.tenants)

    @property
    def changes(self) -> int:
        """Return how many operations of people have ended."""
        return sum(sum(commands.values()) for commands in self.ended.values())

    @property
    def well(self) -> bool:
        """Return whether there is nothing to check."""
        return not self.problems


def gather(context: Context, since: float) -> Digest:
    """Read the fleet in one request per server, and the rest from the database. Silent servers are reported."""
    database, now, settings = context.database, context.now(), context.settings
    inventory = context.fleet.full_inventory()
    incidents = context.incidents.since(since)
    operations = context.operations.select(
        "requester <> ? AND finished BETWEEN ? AND ?", SYSTEM, since, now, order="finished DESC", limit=SHOWN
    )
    problems = _by_tenant(incidents)
    asked = _by_tenant(operations)
    grown = growth(database, now - TREND, now)
    measured, disks = metrics.latest(database, now), metrics.disks(database)
    taken = _taken(context, since)
    awake = _awake(context)
    stand = [replace(one.tenant, status=one.state.status) for one in inventory.tenants]
    known = conditions(context, stand)
    tenants = tuple(
        _tenant(
            context,
            tenant,
            one,
            known[tenant.instance],
            taken.get(tenant.name, 0),
            grown.get(tenant.name),
            measured.get(tenant.name),
            disks.get(tenant.name),
            now - awake.get(tenant.host, 0.0) > CATCHES_UP,
            tuple(problems.get(tenant.name, ())),
            tuple(asked.get(tenant.name, ())),
        )
        for tenant, one in zip(stand, inventory.tenants, strict=True)
    )
    pools = storage(database, now)
    full_pools = tuple(host for host, use in pools.items() if use.high(settings.health.pool))
    failed_maintenance = _failed_maintenance(context, since)
    halted = context.operations.select("state = 'needs_attention'", limit=SHOWN)
    halted.sort(key=lambda one: one.aftermath.get("online") is not False)
    failed = context.operations.select(
        "state = 'failed' AND requester <> ? AND parent = 0 AND finished BETWEEN ? AND ?",
        SYSTEM,
        since,
        now,
        order="id DESC",
        limit=SHOWN,
    )
    told: dict[str, Collection[str]] = {
        "silent": inventory.silent,
        "full_pools": full_pools,
        "missing": {tenant.name for tenant in tenants if tenant.missing},
        "failed_maintenance": {tenant for one in failed_maintenance for tenant in one.tenants},
        "halted": {one.tenant for one in halted},
        "halted_maintenance": {one.tenant for one in halted if one.requester == SYSTEM},
        **{measure: {tenant.name for tenant in tenants if measure in tenant.high} for measure in MEASURES},
    }
    found = [
        one for one in incidents if not one.closed and not any(one.subject in told[part] for part in one.row.digest)
    ]
    last = audit.recent(database, limit=1)
    found_bases = stands(settings, [one.tenant for one in inventory.tenants])
    return Digest(
        at=now,
        since=since,
        tenants=tenants,
        silent=inventory.silent,
        halted=tuple(halted),
        open=tuple(worst_first(found)),
        taken=sum(taken.values()),
        jobs=failing_jobs(context, inventory.silent.values()),
        recovered=sum(bool(one.closed) for one in incidents),
        pools=pools,
        full_pools=full_pools,
        carries=carried(context, [one.tenant for one in inventory.tenants], pools),
        waiting=tuple(context.operations.select("state = 'awaiting_approval'", limit=SHOWN)),
        failed=tuple(failed),
        failed_maintenance=failed_maintenance,
        ended=_ended(context, since),
        new=_succeeded(context, since, ("new", "unarchive")),
        gone=_succeeded(context, since, ("delete",)),
        outbound_off=tuple(one.tenant.name for one in inventory.tenants if one.tenant.outbound_off),
        frozen=tuple(Freezes(context.operations).all()),
        may_end=tuple(settings.policy("unfreeze").ask),
        behind=tuple(one.tenant.name for one in inventory.tenants if is_behind(one.tenant)),
        bases={one.tenant.name: found_bases[one.tenant.instance] for one in inventory.tenants},
        head=(last[0]["seq"], last[0]["hash"]) if last else (0, audit.GENESIS),
    )


def _awake(context: Context) -> dict[str, float]:
    """Return since when each host has been looked at without a gap; empty while the checks are paused: no gap shows."""
    looks = not any(job.name == "health" and job.paused for job in context.jobs.all())
    return metrics.awake_since(context.database, context.now()) if looks else {}


def failing_jobs(context: Context, silent: Collection[str]) -> tuple[Job, ...]:
    """Return the failing jobs, except those that fail because of a silent server, and the digest that is being made."""
    return tuple(
        job
        for job in context.jobs.failing_jobs()
        if job.paused or job.late or not (job.outcome in silent or (job.running and job.name == "digest"))
    )


def carried(context: Context, tenants: Iterable[Tenant], pools: Mapping[str, Use]) -> dict[str, Carries]:
    """Return how many more tenants fit on each host, from the last sweep, without a request to LXD."""
    resources = {
        host: Resources(one.memory_total, one.memory or 0, cores=1, load=one.load)
        for host, one in metrics.hosts(context.database, context.now()).items()
        if one.memory_total
    }
    free = {host: use.limit - use.used for host, use in pools.items()}
    return carries(context, list(tenants), resources, free)


def storage(database: Database, now: float) -> dict[str, Use]:
    """Return the storage pool of each host with its history, from the last sweep, without a request to LXD."""
    pools = {}
    for host, fills in pool_growth(database, now - TREND, now).items():
        past = metrics.pool_history(database, host, now - PAST, now)
        shares = tuple((float(one.at), one.used / one.total) for one in past)
        pools[host] = Use(past[-1].used, past[-1].total, fills.days_to_full(past[-1].total), shares)
    return pools


def _by_tenant(found: Iterable[T]) -> dict[str, list[T]]:
    grouped: dict[str, list[T]] = {}
    for one in found:
        grouped.setdefault(one.tenant, []).append(one)
    return grouped


def _tenant(
    context: Context,
    tenant: Tenant,
    one: TenantEntry,
    condition: Condition,
    taken: int,
    grown: Growth | None,
    measured: Sample | None,
    known: KnownDisk | None,
    caught_up: bool,
    incidents: tuple[Incident, ...],
    operations: tuple[Operation, ...],
) -> TenantDay:
    now, settings = context.now(), context.settings
    plan = settings.plans.get(tenant.plan)
    uses = {}
    disk = last_known(tenant, known, plan, now)
    if disk and disk.used is not None and disk.limit and known:
        now_measured = measured is not None and measured.disk is not None
        days = grown.days_to_full(disk.limit) if grown and now_measured else None
        uses["disk"] = Use(disk.used, disk.limit, days, at=0 if now_measured else known.at)
    # LXD counts cached files too, which over time fill all memory that is left.
    if plan and measured and measured.memory:
        uses["memory"] = Use(int(measured.memory), size_bytes(plan.memory), None)
    percents = {measure: getattr(settings.health, findings.kind(measure).threshold) for measure in MEASURES}
    # A restore leaves snapshots behind in the container that it replaced.
    ages = (now - snapshot.created for snapshot in (*one.left, *one.snapshots) if snapshot.created <= now)
    newest = min(ages, default=None)
    wanted = settings.snapshots.hourly or settings.snapshots.daily
    live = is_open(tenant) and not 0 <= now - tenant.created <= SNAPSHOT_DUE
    overdue = bool(wanted) and live and (newest is None or newest > SNAPSHOT_DUE)
    return TenantDay(
        name=tenant.name,
        host=tenant.host,
        condition=condition,
        disk=uses.get("disk"),
        memory=uses.get("memory"),
        high=tuple(measure for measure, use in uses.items() if use.high(percents[measure])),
        newest=newest,
        taken=taken,
        missing=overdue and caught_up,
        incidents=incidents,
        operations=operations,
        waits=overdue and not caught_up,
    )


# Maintenance makes thousands of operations a day. So these queries find the day's operations by an index on their end,
# and never read all. Operations that a clock that was ahead dated in the future belong to no day yet.


def _ended(context: Context, since: float) -> dict[str, dict[str, int]]:
    rows = context.database.read(
        "SELECT state, command, count(*) AS n FROM operations INDEXED BY operations_by_end"
        " WHERE requester <> ? AND finished BETWEEN ? AND ? AND subject = 'tenant'"
        " GROUP BY state, command ORDER BY state = 'succeeded' DESC, n DESC",
        SYSTEM,
        since,
        context.now(),
    )
    ended: dict[str, dict[str, int]] = {}
    for row in rows:
        ended.setdefault(row["state"], {})[row["command"]] = row["n"]
    return ended


def _taken(context: Context, since: float) -> dict[str, int]:
    """Count the snapshots taken of each tenant, including deleted ones."""
    rows = context.database.read(
        "SELECT tenant, count(*) AS n FROM snapshots_of_tenants WHERE at BETWEEN ? AND ? GROUP BY tenant",
        since,
        context.now(),
    )
    return {row["tenant"]: row["n"] for row in rows}


def _failed_maintenance(context: Context, since: float) -> tuple[FailedMaintenance, ...]:
    rows = context.database.read(
        "SELECT command, count(*) AS times, group_concat(DISTINCT tenant) AS tenants, outcome, max(id)"
        " FROM operations INDEXED BY operations_by_end"
        " WHERE requester = ? AND state = 'failed' AND finished BETWEEN ? AND ?"
        " GROUP BY command ORDER BY times DESC",
        SYSTEM,
        since,
        context.now(),
    )
    return tuple(
        FailedMaintenance(row["command"], row["times"], tuple(sorted(row["tenants"].split(","))), row["outcome"])
        for row in rows
    )


def _succeeded(context: Context, since: float, commands: Collection[str]) -> tuple[str, ...]:
    marks = ",".join("?" * len(commands))
    rows = context.database.read(
        "SELECT DISTINCT tenant FROM operations INDEXED BY operations_by_end"  # noqa: S608
        f" WHERE state = 'succeeded' AND finished BETWEEN ? AND ? AND command IN ({marks}) AND subject = 'tenant'"
        " ORDER BY tenant",
        since,
        context.now(),
        *commands,
    )
    return tuple(row["tenant"] for row in rows)
