"""Snapshots of tenants: consistent, labelled with who and why, and kept as the policy says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from bot.engine.context import Context, Run
from bot.engine.retention import Point, Retention, spread
from bot.fleet import ballast
from bot.fleet.inventory import Host
from bot.guest.mautic import BackupLock
from bot.lxd.protocol import Lxd, PoolFull, PoolSpace, Snapshot, Vanished
from bot.model.labels import as_labels, label_of, moment_of, number_of
from bot.model.plan import Plan, Refused
from bot.model.tenants import Tenant
from bot.model.text import kept_for, seconds, size
from bot.store import metrics
from bot.store.metrics import DAY
from bot.store.migrations import MAINTENANCE

SCHEDULED, ASKED = "schedule", "asked"
KEPT = "kept until somebody deletes it"
_NAME = re.compile(r"s-\d{8}-\d{6}-m?\d+\Z")
"""The names of the bot's own snapshots; snapshots made by hand, or needed by a move, are left alone."""
TRIES = 3
"""How often a snapshot is tried while files vanish."""


@dataclass(frozen=True)
class Taken:
    """A snapshot that the bot took. `at`: by the bot's clock, epoch seconds; `size`: bytes that it alone holds."""

    name: str
    at: int
    why: str
    by: str
    note: str
    keep: bool
    size: int

    def protected(self, days: int, before: Callable[[float], float]) -> str:
        """Return what protects the snapshot from cleanup, in words, or "".

        `days`: for how long a safety snapshot is kept; 0: until somebody deletes it. `before` as `Uptime.before`.
        """
        if self.keep:
            return KEPT
        if self.why not in (SCHEDULED, ASKED) and (not days or self.at > before(days * DAY)):
            return f"kept {kept_for(days)}"
        return ""


def safety(command: str, operation: int) -> str:
    """Return the `why` of the safety snapshot that a cutover takes."""
    return f"before {command} {operation}"


def _suffix(operation: int) -> str:
    """Return the end of the names of an operation's snapshots; people read and type these, so it is short."""
    return f"-m{operation - MAINTENANCE}" if operation > MAINTENANCE else f"-{operation}"


def ours(snapshots: Iterable[Snapshot]) -> list[Taken]:
    """Return the snapshots that the bot took, oldest first."""
    found = []
    for one in snapshots:
        if _NAME.match(one.name) and (at := moment_of(label_of(one.config, "taken"))):
            why, by, note, keep = (label_of(one.config, name) for name in ("why", "by", "snapshot-note", "keep"))
            found.append(Taken(one.name, at, why, by, note, keep == "1", one.size))
    return sorted(found, key=lambda one: (one.at, one.name))


def left_behind(context: Context, tenant: Tenant) -> dict[str, str]:
    """Return, for the card, how long the snapshots of a container that is about to be replaced are kept.

    They matter because no copy has any of them. In a batch this returns nothing: it takes a request per tenant.
    """
    left = [] if context.many else ours(context.fleet.of(tenant).lxd.snapshots(tenant.instance))
    if not left:
        return {}
    days = context.settings.retention.retired_days
    protected = sum(one.keep for one in left)
    until = f" until {context.renderer.moment(context.now() + days * DAY)}" if days else " (no automatic deletion)"
    if protected:
        until = f" (no automatic deletion: {protected} protected)"
    return {"Existing snapshots": f"{len(left)} stay{'s' if len(left) == 1 else ''} in the previous container{until}"}


def counted(context: Context, snapshots: Iterable[Snapshot]) -> list[Point]:
    """Return the snapshots that the tiers count: those without another protection."""
    days, before = context.settings.retention.retired_days, context.uptime.before
    return [Point(one.at, one.name) for one in ours(snapshots) if not one.protected(days, before)]


def retention(context: Context, tenant: str) -> Retention:
    """Return the policy for one tenant."""
    return Retention(context.settings.snapshots, context.renderer.zone, spread(tenant))


def is_short(context: Context, space: PoolSpace) -> bool:
    """Return whether a pool has too little free space for snapshots."""
    return (space.total - space.used) * 100 < space.total * context.settings.snapshots.reserve


def oldest(context: Context, snapshots: Sequence[Snapshot], excess: int) -> list[str]:
    """Return the oldest snapshots of a tenant, as many as hold the excess; never the newest or protected ones.

    Args:
        excess: bytes; 0: it is unknown which snapshots hold them, and the oldest goes. A snapshot that holds less than
            a hundredth of it stays, because data that two snapshots share counts for neither. If all do, the oldest
            goes.
    """
    names: list[str] = []
    sizes = {one.name: one.size for one in snapshots}
    may_go = sorted(counted(context, snapshots))[:-1]
    for point in [point for point in may_go if excess and sizes[point.name] * 100 >= excess] or may_go[:1]:
        if names and excess <= 0:
            break
        names.append(point.name)
        excess -= sizes[point.name]
    return names


def written(snapshots: Iterable[Snapshot]) -> int:
    """Return the bytes written between a tenant's snapshots: an upper bound of what the snapshots hold.

    The sizes that LXD reports are a lower bound, as data shared by two snapshots is counted for neither. So this finds
    tenants that rewrite much, and the sizes tell what the snapshots hold for certain.
    """
    return sum(number_of(label_of(one.config, "wrote")) for one in snapshots)


def refuse_without_space(context: Context, tenant: Tenant) -> None:
    """Raise Refused if the pool or the allowance of the tenant has no space for a snapshot."""
    host, limits = context.fleet.of(tenant), context.settings.snapshots
    space = host.lxd.pool()
    if is_short(context, space):
        raise Refused(
            f"The storage pool of `{host.name}` has {size(space.total - space.used)} of {size(space.total)} free, less "
            f"than the reserve of {limits.reserve}%. Delete a snapshot with `/mautic prune {tenant.name} <snapshot>`; "
            f"`/mautic snapshots {tenant.name}` lists them."
        )
    held, most = metrics.snapshots(context.database).get(tenant.name), context.settings.snapshots_allowed(tenant.plan)
    if held and most and held.held > most:
        raise Refused(
            f"The snapshots of `{tenant.name}` hold {size(held.held)}, and the plan allows {size(most)}. Delete one "
            f"with `/mautic prune {tenant.name} <snapshot>`; `/mautic snapshots {tenant.name}` lists them."
        )


@dataclass(frozen=True)
class Taking:
    """The inputs of the steps that take a snapshot, as `take` has them."""

    tenant: Tenant
    why: str
    note: str
    keep: bool


@dataclass(frozen=True)
class Pruning:
    """The inputs of the steps that delete snapshots of a tenant, by name."""

    tenant: Tenant
    snapshots: tuple[str, ...]


def taking(context: Context, tenant: Tenant, *, note: str = "", keep: bool = False) -> Plan:
    """Return the plan to take a snapshot, for a person or, if the context has no channel, for a job.

    `commands/snapshot.py` has its steps.
    """
    why = ASKED if context.channel else SCHEDULED
    return Plan(
        tenant=tenant.name,
        arguments={"tenant": tenant.name, "note": note, "keep": keep},
        summary=f"Take a snapshot of tenant {tenant.name}",
        facts={"Kept": "until somebody deletes it" if keep else "as long as the policy says"}
        | ({"Note": note} if note else {}),
        values={"keep": keep, "note": note},
        inputs=Taking(tenant, why, note, keep),
        reversible="changes nothing that runs",
        seconds=1,
        host=tenant.host,
    )


@dataclass(frozen=True)
class NewSnapshot:
    """A snapshot that was just taken: its name, and in words how it was taken."""

    name: str
    words: str


def take(run: Run, tenant: Tenant, *, why: str, note: str = "", keep: bool = False) -> NewSnapshot:
    """Take the operation's snapshot of a tenant, once per try; its words say how long writes paused.

    Args:
        why: `asked`, `schedule`, or what it comes before, such as `before restore 17`.
        keep: it is protected from cleanup.
    """
    host = run.fleet.of(tenant)
    # A retry starts again: the snapshot of an earlier try is too old.
    began = int(run.operations.get(run.operation).started or 0)
    existing = host.lxd.snapshots(tenant.instance)
    # Snapshots that are read per instance have sizes; those read for the whole fleet have none.
    metrics.note_snapshots(run.database, tenant.name, run.now(), [one.size for one in existing])
    for known in ours(existing):
        # One that a clock which was ahead dated in the future may be of an earlier try.
        if known.name.endswith(_suffix(run.operation)) and began <= known.at <= run.now() + TRIES:
            return NewSnapshot(known.name, f"{known.name} (already taken)")
    let_go_on(host.lxd, tenant.instance)
    for later in range(TRIES - 1):
        with suppress(Vanished):
            return _take(run, tenant, host, int(run.now()) + later, why=why, note=note, keep=keep)
    at = int(run.now()) + TRIES - 1
    return _take(run, tenant, host, at, why=why, note=note, keep=keep, still=True)


def let_go_on(lxd: Lxd, instance: str) -> None:
    """Thaw an instance whose snapshot was interrupted; one that somebody else froze has no label."""
    found = lxd.instance(instance)
    if found.status == "Frozen" and label_of(found.config, "taken"):
        lxd.thaw(instance)


def _take(
    run: Run, tenant: Tenant, host: Host, at: int, *, why: str, note: str, keep: bool, still: bool = False
) -> NewSnapshot:
    """Take a snapshot, named after the time `at`; each try needs another time, as a failed one keeps its name."""
    name = f"s-{datetime.fromtimestamp(at, UTC):%Y%m%d-%H%M%S}{_suffix(run.operation)}"
    # None of these keys is also a label of a tenant: they are set on the instance while LXD takes the snapshot, and a
    # crash may leave them there.
    # On btrfs, the exclusive bytes of an instance were written since its last snapshot.
    wrote = host.lxd.state(tenant.instance).disk
    facts = as_labels(why=why, snapshot_note=note, keep=keep, by=run.actor.id, taken=at, wrote=wrote)
    found = host.lxd.instance(tenant.instance)
    if label_of(found.config, "taken"):
        # Left by a kill. A later pause by somebody else must not be taken for an interrupted snapshot.
        with suppress(PoolFull):
            host.lxd.update(tenant.instance, dict.fromkeys(facts))
    if not found.running:
        host.lxd.snapshot(tenant.instance, name, config=facts)
        return NewSnapshot(name, f"{name}, of a stopped container")
    locks: list[BackupLock] = []

    @contextmanager
    def held() -> Iterator[None]:
        with host.mautic.backup_lock(tenant.instance) as lock:
            locks.append(lock)
            yield

    host.lxd.snapshot(tenant.instance, name, config=facts, within=held(), still=still)
    (lock,) = locks
    if not lock.consistent:
        return NewSnapshot(name, f"{name}, crash-consistent only: {lock.why}")
    return NewSnapshot(name, f"{name}, writes paused {seconds(lock.seconds)}")


def prune(run: Run, tenant: Tenant, names: Sequence[str]) -> None:
    """Delete snapshots of a tenant by name, those that exist."""
    host = run.fleet.of(tenant)
    there = {one.name for one in host.lxd.snapshots(tenant.instance)}
    for name in names:
        if name in there:
            ballast.with_space(host, partial(host.lxd.delete_snapshot, tenant.instance, name))
    left = host.lxd.snapshots(tenant.instance)
    metrics.note_snapshots(run.database, tenant.name, run.now(), [one.size for one in left])


def pruning(tenant: Tenant, names: Sequence[str], why: str) -> Plan:
    """Return the plan to delete snapshots of a tenant, by name; `commands/prune.py` has its steps."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Plan(
        tenant=tenant.name,
        arguments={"tenant": tenant.name, "snapshots": ",".join(names)},
        summary=f"Delete snapshots of tenant {tenant.name}",
        facts={"Deletes": shown},
        values={"snapshots": ",".join(names)},
        remarks={"Why": why},
        inputs=Pruning(tenant, tuple(names)),
        reversible="cannot be undone",
        seconds=len(names),
    )
