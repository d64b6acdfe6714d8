"""One check of a tenant or host: everything measured at one time, and what follows from that alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.guest.mautic import Disk
from bot.lxd.protocol import InstanceState, PoolSpace, Resources, Snapshot, size_bytes
from bot.model.diagnosis import Found
from bot.model.findings import FINDINGS
from bot.model.remedies import MORE
from bot.model.tenants import PlanSize, Tenant
from bot.settings import HealthSettings, Settings
from bot.store.metrics import KnownDisk

FULL = 64 << 20
"""Bytes that a tenant has to be able to write, or nothing in it works: then that is the cause of all else."""


@dataclass(frozen=True)
class Page:
    """The login page through the edge: whether it was there, what came instead, and its certificate's times.

    `answered`: something came at all.
    """

    login: bool
    answer: str
    seconds: float
    answered: bool = True
    valid_from: float = 0
    valid_until: float = 0


@dataclass(frozen=True)
class Before:
    """What a tenant was like on the day before its upgrade, while that is watched: seconds of its page on average, and
    errors in its log a day; None: not measured. `version`: the one that it had.
    """

    version: str
    page: float | None
    log_errors: int | None


@dataclass(frozen=True)
class Look:
    """One look at a tenant, at epoch seconds `at`.

    `inside` are the facts and checks of `Mautic.health`, or None with the `problem` of asking for them; `page` is None
    where it was not asked for. `half_done`: the operation that came to a halt on it, 0: none, `left` what it left, in
    sentences, and `undoable` whether Undo can roll it back.
    `snapshot_due`: seconds within which snapshots are to follow each other, 0: none are; `awake`:
    since when the bot has been there for that. `rival`: another instance that has its address, and `foreign`: the
    address of its own is not one that tenants have. `held`: bytes that its snapshots hold at least, and `allowed`: that
    they may, 0: no limit; `oldest`: the name of the oldest that can be pruned. `disk`: what it uses of its disk, as it
    was measured now, or with `disk_at` at an earlier time, as of one that does not run. `before`: see `Before`; None:
    it was not upgraded of late. `larger`: the names of the next larger plans, by what they have more of: `disk`,
    `memory`.
    """

    tenant: Tenant
    at: float
    state: InstanceState
    snapshots: tuple[Snapshot, ...] = ()
    size: PlanSize | None = None
    inside: Mapping[str, Any] | None = None
    problem: str = ""
    page: Page | None = None
    disk: Disk | None = None
    disk_at: float = 0
    larger: Mapping[str, str] = field(default_factory=dict)
    half_done: int = 0
    left: str = ""
    undoable: bool = True
    snapshot_due: float = 0
    awake: float = 0
    held: int = 0
    allowed: int = 0
    oldest: str = ""
    rival: str = ""
    foreign: bool = False
    before: Before | None = None

    @property
    def running(self) -> bool:
        """Whether its container ran when it was looked at."""
        return self.state.status == "Running"

    @property
    def disk_used(self) -> int | None:
        """Bytes that it uses of its disk, None where that was not measured."""
        return self.disk.used if self.disk else None

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the tool inside measured; nothing where it was not asked."""
        return self.inside["facts"] if self.inside else {}

    @property
    def checks(self) -> Mapping[str, Mapping[str, Any]]:
        """What the tool inside judged, as `status` shows it; nothing where it was not asked."""
        return self.inside["checks"] if self.inside else {}

    @property
    def values(self) -> dict[str, str]:
        """What remedies of any finding may use."""
        known = {"tenant": self.tenant.name, "oldest": self.oldest, "full": "yes" if is_full(self.disk) else ""}
        return known | {f"larger_{what}": name for what, name in self.larger.items()}


@dataclass(frozen=True)
class HostLook:
    """One look at a host.

    `silent`: why it gives no answer. `pool` and `resources` are None where it has none of its own, as a whole cluster.
    `move`: a tenant and a host that has room for it, where the pool is nearly full and there are such.
    """

    host: str
    silent: str = ""
    pool: PoolSpace | None = None
    resources: Resources | None = None
    move: tuple[str, str] = ("", "")


Check = Callable[[Look, HealthSettings], Found | None]
HostCheck = Callable[[HostLook, Settings], Found | None]
CHECKS: dict[str, Check] = {}
"""The functions that find what is wrong with a tenant, by the key of the finding."""
HOST_CHECKS: dict[str, HostCheck] = {}
"""The same of hosts."""


def finds(key: str) -> Callable[[Check], Check]:
    """Declare a function as the one that finds this of a tenant: it gets a look, and returns None where it is well.

    What is seen inside or by its page is asked for only where somebody could look there.
    """

    def declare(check: Check) -> Check:
        if key in CHECKS or not FINDINGS[key].of_tenant:
            raise ValueError(f"The finding `{key}` has its function already, or is none of a tenant.")
        CHECKS[key] = check
        return check

    return declare


def finds_of_host(key: str) -> Callable[[HostCheck], HostCheck]:
    """Declare a function as the one that finds this of a host, as `finds` does of a tenant."""

    def declare(check: HostCheck) -> HostCheck:
        if key in HOST_CHECKS or FINDINGS[key].of_tenant:
            raise ValueError(f"The finding `{key}` has its function already, or is one of a tenant.")
        HOST_CHECKS[key] = check
        return check

    return declare


def last_known(tenant: Tenant, known: KnownDisk | None, size: PlanSize | None) -> Disk | None:
    """Return what was measured last of the disk of a tenant that does not run, with the limit that it has now."""
    if known is None or known.at < tenant.created:
        return None
    limit = size_bytes(tenant.disk) if tenant.disk else known.limit or (size_bytes(size.disk) if size else None)
    return Disk(known.used, limit, max(0, limit - known.used) if limit else 0)


def is_full(disk: Disk | None) -> bool:
    """Whether a tenant can write no more, by its own limit."""
    return disk is not None and disk.used is not None and bool(disk.limit) and (disk.limit or 0) - disk.used < FULL


def larger_plans(plans: Mapping[str, PlanSize], disk: int, memory: int, has: str) -> dict[str, str]:
    """Return the names of the next larger plans than these bytes, by what they have more of: `disk`, `memory`.

    `has`: the plan that it has. That may have become larger in the settings, but nobody can be given it once more.
    """
    sizes = {
        name: {"disk": size_bytes(plan.disk), "memory": size_bytes(plan.memory)}
        for name, plan in plans.items()
        if name != has
    }
    have = {"disk": disk, "memory": memory}
    found = {}
    for what, other in (("disk", "memory"), ("memory", "disk")):
        more = [name for name, size in sizes.items() if size[what] > have[what] and size[other] >= have[other]]
        if more and have[what]:
            found[what] = min(more, key=lambda name: (sizes[name][what], sizes[name][other]))
    return found


def more_of(what: str, tenant: str, larger: Mapping[str, str]) -> str:
    """Say how a tenant gets more of what it is short of; `larger` as `larger_plans` returns it."""
    return MORE[what].told({"tenant": tenant, f"larger_{what}": larger.get(what, "")})


def listed(names: list[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
