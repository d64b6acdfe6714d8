"""Decides where a container may run: on a host with enough memory and disk, within the limits of the policy.

The bot checks that when an operation is requested, approved and begun. Approved operations that do not run yet count as
well, so that many operations approved at once do not all get the same memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from bot.engine.context import Context
from bot.fleet.capacity import (
    Demand,
    FreeSpace,
    Occupant,
    PlanMeasurements,
    expected,
    free_space,
    seen_by_hosts,
    strain,
)
from bot.fleet.inventory import Host
from bot.lxd.products import takes
from bot.lxd.protocol import LxdError, LxdUnavailable, PoolSpace, Resources, size_bytes
from bot.model.forms import mariadb_bytes
from bot.model.labels import Role, State
from bot.model.plan import NoSpace, Refused
from bot.model.tenants import PlanSize, Tenant, candidate_name
from bot.model.text import size
from bot.settings import Settings
from bot.store import metrics
from bot.store.metrics import DAY, Sample

LEAST = 1 << 30
"""Bytes that must be free on a host's pool for one more tenant."""
LATELY = 7 * DAY
"""Seconds over which a tenant's highest use is expected to recur: a tenant may be busy on one day of the week."""


@dataclass(frozen=True)
class Use:
    """What tenants really use, in bytes, by name: the last reading and the recent maximum of each."""

    context: Context
    latest: Mapping[str, Sample]
    highest: Mapping[str, int]
    _alike: dict[str, PlanMeasurements] = field(default_factory=dict, repr=False)

    def expected(self, plan: str, tenant: str = "") -> int:
        """Return the bytes that a tenant of a plan will take; for an existing tenant at least its recent maximum."""
        plans = self.context.settings.plans
        # A plan that is no longer in the settings counts as the smallest one, not as nothing.
        known = plans.get(plan) or min(plans.values(), key=lambda one: size_bytes(one.memory))
        alike = self._alike.get(plan, PlanMeasurements())
        return max(expected(self.context.settings.capacity, known, alike), self.highest.get(tenant, 0))

    def measured(self, one: Tenant) -> int | None:
        """Return what a running tenant uses, in bytes; None if it was not measured since its start."""
        seen = self.latest.get(one.name)
        if one.role != Role.TENANT or not seen or not seen.memory or seen.at < one.started:
            return None
        return int(seen.memory)

    def occupant(self, one: Tenant, holds: Mapping[str, int]) -> Occupant:
        """Return what a tenant takes; `holds`: bytes in use by instances that were not measured since their start."""
        running = one.status == "Running"
        # A crashed tenant is started again, by LXD or a person, and needs the same memory.
        runs = running or (one.role == Role.TENANT and not one.stopped)
        plan = self.context.settings.plans.get(one.plan)
        now = self.measured(one)
        if running and now is not None:
            growth = max(0, self.highest.get(one.name, 0) - now)
        else:
            growth = max(0, self.expected(one.plan, one.name) - (holds.get(one.instance, 0) if running else 0))
        # A candidate's plan counts already with the container that it replaces.
        plan_memory = size_bytes(plan.memory) if plan and one.role == Role.TENANT else 0
        return Occupant(one.instance, runs, growth, plan_memory, one.role == Role.TENANT)


@dataclass(frozen=True)
class Carries:
    """What is free on a host, and how many more tenants of each plan fit there."""

    free_space: FreeSpace
    fits: Mapping[str, int]

    @property
    def words(self) -> str:
        """How many more fit, as in "23 small, 8 medium or 2 large more"."""
        told = [f"{count} {plan}" for plan, count in self.fits.items() if count]
        return f"{', '.join(told[:-1])}{' or ' if told[:-1] else ''}{told[-1]} more" if told else "no more"


def use(context: Context, tenants: Iterable[Tenant] = ()) -> Use:
    """Read what tenants use; `tenants`: those whose use predicts what new tenants of the same plan will take."""
    now = context.now()
    found = Use(context, metrics.latest(context.database, now), metrics.highest(context.database, now - LATELY, now))
    most: dict[str, list[int]] = {}
    told: dict[str, int] = {}
    for one in tenants:
        if one.role == Role.TENANT and one.name in found.highest:
            most.setdefault(one.plan, []).append(found.highest[one.name])
        if (now_used := found.measured(one)) is not None:
            told[one.host] = told.get(one.host, 0) + now_used
    hosts = metrics.hosts(context.database, now)
    seen = seen_by_hosts((hosts[host].memory or 0, used) for host, used in told.items() if host in hosts)
    found._alike.update({plan: PlanMeasurements(tuple(figures), seen) for plan, figures in most.items()})
    return found


def carries(
    context: Context, tenants: Sequence[Tenant], resources: Mapping[str, Resources], free: Mapping[str, int]
) -> dict[str, Carries]:
    """Return what each host can still carry, by name, from known readings: no server is asked.

    Args:
        tenants: with the role `tenant` or `incoming`, of all hosts.
        free: bytes that are free on each host's pool; an unknown pool limits nothing.
    """
    used, approved = use(context, tenants), [demand for _, demand in pending(context)]
    found = {}
    for host, has in resources.items():
        there = [used.occupant(one, {}) for one in tenants if one.host == host]
        # A tenant that already runs is counted twice until its operation ends.
        coming = [demand for demand in approved if demand.host == host]
        left = free_space(host, has, context.settings.capacity, there, coming)
        fits = {
            name: left.fits(Demand(host, memory=used.expected(name), plan=size_bytes(plan.memory), tenants=1))
            if free.get(host, LEAST) >= LEAST
            else 0
            for name, plan in context.settings.plans.items()
        }
        found[host] = Carries(left, fits)
    return found


def free_space_by_host(context: Context, hosts: Iterable[Host], but: str = "") -> dict[str, FreeSpace]:
    """Return what is free on each host that answers, by name; `but`: an instance to leave out."""
    found = {}
    for host in hosts:
        with suppress(LxdError):
            found[host.name] = free_space_on(context, host, but)
    return found


def free_space_on(context: Context, host: Host, but: str = "") -> FreeSpace:
    """Return what is free on a host; `but`: an instance to leave out. Raises LxdError if the host cannot tell."""
    seen = context.fleet.inventory(Role.TENANT, Role.INCOMING, Role.RETIRED)
    if host.server in seen.silent:
        raise LxdUnavailable(seen.silent[host.server])
    used = use(context, seen.tenants)
    here = [one for one in seen.tenants if (one.server, one.host) == (host.server, host.name)]
    running = {one.instance for one in here if one.status == "Running"}
    unmeasured = [one.instance for one in here if one.instance in running and used.measured(one) is None]
    resources, holds = context.fleet.resources(host), context.fleet.memory(host, unmeasured)
    there = [
        used.occupant(one, holds)
        for one in here
        if one.instance != but and (one.role != Role.RETIRED or one.instance in running)
    ]
    coming = [
        demand
        for instances, demand in pending(context)
        if demand.host == host.name and not (demand.instance and running.intersection(instances))
    ]
    return free_space(host.name, resources, context.settings.capacity, there, coming)


def pending(context: Context) -> list[tuple[set[str], Demand]]:
    """Return the demands of approved operations that have not ended, except this one, with the instances they start.

    While this operation runs, only operations that began before it count: they were admitted first. Children of a batch
    that wait for their turn and take memory only while they run do not count: those before them will have ended. Nor do
    operations of that kind that wait for their time, for the hours of the settings or for the end of a send.
    """
    rows = context.database.read(
        """
        WITH own AS (SELECT started FROM operations WHERE id = ?1 AND state = 'running')
        SELECT id, tenant, json_extract(plan, '$.demand') AS demand FROM operations
        WHERE state IN ('queued', 'running', 'waiting') AND id <> ?1 AND demand IS NOT NULL
          AND NOT ((state = 'waiting' OR held_by IN ('time', 'window', 'sending'))
            AND coalesce(json_extract(demand, '$.passing'), 0))
          AND (NOT EXISTS (SELECT 1 FROM own) OR begun = 1
            OR state = 'running' AND (started, id) < ((SELECT started FROM own), ?1))
        """,
        context.operation,
    )
    found = []
    for row in rows:
        demand = Demand(**json.loads(row["demand"]))
        found.append(({demand.instance, candidate_name(row["tenant"], row["id"])}, demand))
    return [*found, *(({demand.instance}, demand) for demand in context.promised)]


def demand_of(
    context: Context, tenant: Tenant, host: Host, instance: str, *, tenants: int = 0, beside: bool = False
) -> Demand:
    """Return what a tenant's container takes on a host.

    Args:
        tenants: 1 if the tenant was not on that host before.
        beside: the container runs only for a while, beside the one that it replaces, so that the plan counts once.
    """
    plan = context.settings.plans.get(tenant.plan)
    limit = size_bytes(plan.memory) if plan and not beside else 0
    used = use(context, context.fleet.inventory(Role.TENANT).tenants)
    return Demand(host.name, instance, used.expected(tenant.plan, tenant.name), limit, tenants, passing=beside)


def inside_of(settings: Settings, plan: str, memory: str) -> PlanSize:
    """Return the sizes of the services inside a container with this plan and this limit of memory.

    The plan may by now give more memory than the container has, so that MariaDB and PHP would be killed, or it may be
    gone from the settings. Then its sizes, or those of the plan nearest in memory, are scaled in proportion. A limit
    that cannot be read gives the sizes of the plan, or of the smallest one.
    """
    plans = settings.plans
    known = plans.get(plan)
    try:
        has = size_bytes(memory)
    except LxdError:
        return known or min(plans.values(), key=lambda one: size_bytes(one.memory))
    if known and size_bytes(known.memory) <= has:
        return known
    near = known or min(plans.values(), key=lambda one: abs(size_bytes(one.memory) - has))
    full = size_bytes(near.memory)
    return replace(
        near,
        memory=memory,
        innodb_buffer_pool=f"{max(5, (mariadb_bytes(near.innodb_buffer_pool) * has // full) >> 20)}M",
        fpm_children=max(1, near.fpm_children * has // full),
        email_workers=max(1, near.email_workers * has // full),
    )


@dataclass(frozen=True)
class Elsewhere:
    """How people can use another host if one is full.

    `typed`: what is typed before the other host's name, such as `--host`. `first`: the tenant that has to move there
    first, None if none has to. `but`: a host that is no alternative.
    """

    typed: str
    first: Tenant | None = None
    but: str = ""

    @classmethod
    def by_move(cls, tenant: Tenant) -> Elsewhere | None:
        """Return the way that begins with a move of the tenant to the other host; None if the tenant cannot move."""
        can = tenant.running and tenant.state != State.SUSPENDED
        return cls(f"/mautic migrate {tenant.name}", tenant) if can else None


def admit(
    context: Context, host: Host, demand: Demand, doing: str, elsewhere: Elsewhere | None = None
) -> dict[str, str]:
    """Return what is free afterwards, for the card, or raise NoSpace if the host has too little for a demand.

    Args:
        doing: what is impossible then, as in "`client-x` cannot be started on".
        elsewhere: how to use another host; None: that is impossible, because the container is on this one.
    """
    if not (demand.memory or demand.tenants):
        return {}
    found = free_space_on(context, host, but=demand.instance)
    if lacks := found.lacks(demand):
        raise NoSpace(f"{doing} `{host.name}`: {lacks}. {_way_out(context, host, demand, elsewhere)}")
    return {"Memory": found.after(demand)}


def _way_out(context: Context, host: Host, demand: Demand, elsewhere: Elsewhere | None) -> str:
    """Say what to do about a full host."""
    if elsewhere:
        if elsewhere.first:
            plan = context.settings.plans.get(elsewhere.first.plan)
            own = use(context, context.fleet.inventory(Role.TENANT).tenants)
            demand = replace(
                demand,
                memory=demand.memory + own.expected(elsewhere.first.plan, elsewhere.first.name),
                plan=demand.plan + (size_bytes(plan.memory) if plan else 0),
                tenants=1,
            )
        others = [
            one for one in context.fleet.hosts() if one.name not in (host.name, elsewhere.but) and _may_come(host, one)
        ]
        roomy = [name for name, found in free_space_by_host(context, others).items() if not found.lacks(demand)]
        if roomy:
            ways = " or ".join(f"`{elsewhere.typed} {name}`" for name in roomy[:3])
            # A request that waits for approval locks its tenant.
            before = f"Cancel this request (`/mautic cancel {context.operation}`), then " if context.operation else ""
            how = f"{before}{'first' if elsewhere.first else 'use'} {ways}."
            return how[0].upper() + how[1:]
    return f"Stop, resize or delete another tenant on `{host.name}`, or add memory. `/mautic hosts` shows all."


def _may_come(host: Host, other: Host) -> bool:
    """Return whether another host can take a container of this host, and has enough free disk."""
    try:
        space = other.lxd.pool()
        is_roomy = space.total - space.used >= LEAST
        return is_roomy and takes(other.lxd.server().product, host.lxd.server().product)
    except LxdError:
        return False


def free_on(host: Host) -> str:
    """Return what is free on a host's pool, in words; raises Refused when there is too little for one more tenant."""
    space = host.lxd.pool()
    free = space.total - space.used
    if free < LEAST:
        raise Refused(f"The storage pool of `{host.name}` is full; enlarge it, or choose another host.")
    return f"{size(free)} of {size(space.total)} free"


def refuse_full_pool(context: Context, host: Host) -> None:
    """Raise Refused if a host's pool has too little space for a copy of one of its tenants; not checked in a batch."""
    if context.many:
        return
    space = host.lxd.pool()
    free = space.total - space.used
    if free < LEAST:
        raise Refused(
            f"The storage pool of `{host.name}` is full: {size(free)} of {size(space.total)} free, and a copy needs "
            f"{size(LEAST)}. Enlarge the pool, or make room with `/mautic prune <tenant>` or "
            "`/mautic migrate <tenant> <host>`."
        )


def placement(context: Context, demand: Demand) -> tuple[Host, str]:
    """Return the host with the most free space for a new tenant, and how much; raises Refused when none has enough.

    What counts is the scarcer of disk and memory, as a share of the host's.
    """
    pools: list[tuple[Host, PoolSpace]] = []
    for host in context.fleet.hosts():
        try:
            pools.append((host, host.lxd.pool()))
        except LxdError:
            # It answered a moment ago and no longer does, so it gets no new tenant.
            continue
    if not pools:
        raise Refused("No host answers right now; `/mautic doctor` says why.")
    host, space = max(pools, key=lambda one: one[1].total - one[1].used)
    with_disk = [one for one in pools if one[1].total - one[1].used >= LEAST]
    if not with_disk:
        raise Refused(
            f"The storage pool of `{host.name}` is full, and no other host has more free space; enlarge a pool."
        )
    found = free_space_by_host(context, [host for host, _ in with_disk])
    fitting = [
        (min(1 - space.used / space.total, found[host.name].left / found[host.name].resources.total), host, space)
        for host, space in with_disk
        if host.name in found and not found[host.name].lacks(demand)
    ]
    if not fitting and found:
        why = "; ".join(f"`{name}`: {one.lacks(demand)}" for name, one in found.items())
        raise NoSpace(
            f"No host has capacity for one more tenant of this plan. {why}. Stop, resize or delete a tenant, or add "
            "memory or a host. `/mautic hosts` shows all."
        )
    if fitting:
        _, host, space = max(fitting, key=lambda one: one[0])
    most = "" if len(pools) == 1 else f" (the most of {len(pools)} hosts)"
    return host, f"{size(space.total - space.used)} of {size(space.total)} free{most}"


def overloaded(context: Context, host: str) -> str:
    """Return why a host is overloaded, or "" if it is not.

    A host that fails to answer counts as overloaded only if that took longer than `capacity.slow` seconds; otherwise
    the operation itself will fail.
    """
    began, slow = time.monotonic(), context.settings.capacity.slow
    try:
        return strain(context.fleet.resources(context.fleet.host(host)), context.settings.capacity)
    except (LxdError, Refused):
        took = time.monotonic() - began
        return f"it has not answered within {took:.0f} s" if slow and took > slow else ""
