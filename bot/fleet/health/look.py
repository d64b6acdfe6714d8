"""The measurements of one health check of a tenant or host, and what follows from them alone."""

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
"""Bytes that a tenant must be able to write; with less nothing in it works, and the full disk explains all else."""
RENEWS = 1200
"""Seconds in which the edge renews certificates after the machine was suspended: it looks every ten minutes."""


@dataclass(frozen=True)
class Page:
    """The login page as it comes through the edge. `answered`: there was any answer at all.

    `login`: the answer is the login page; `answer`: what came instead, as text; `valid_from` and `valid_until`: the
    certificate's validity, in epoch seconds.
    """

    login: bool
    answer: str
    seconds: float
    answered: bool = True
    valid_from: float = 0
    valid_until: float = 0


@dataclass(frozen=True)
class Before:
    """A tenant on the day before a recent upgrade, for comparison while the upgrade is watched.

    `version`: the Mautic version before; `page`: average seconds of the login page; `log_errors`: errors in the log a
    day. None: not measured.
    """

    version: str
    page: float | None
    log_errors: int | None


@dataclass(frozen=True)
class Look:
    """One health check of a tenant, at epoch seconds `at`.

    inside: the facts and checks of `Mautic.health`; None where it was not asked, or failed with `problem`.
    page: the login page; None where it was not requested.
    half_done: the number of the operation that came to a halt on the tenant, 0: none. `left` says in sentences what it
        left behind, and `undoable` whether Undo can roll it back.
    snapshot_due: the most seconds between two snapshots, 0: none are taken.
    awake: since when the bot has been checking the host without a gap, in epoch seconds. What is late only because of
        the gap before that is neither a problem nor a recovery.
    rival: another instance with the same address. `foreign`: the tenant's address is outside the tenants' network.
    held: bytes that the tenant's snapshots use at least. `allowed`: bytes that they may use, 0: no limit. `oldest`: the
        name of the oldest snapshot that can be pruned.
    disk: the use of the tenant's disk, measured now, or at `disk_at` where the tenant does not run.
    before: the tenant before its upgrade; None: no recent upgrade.
    larger: the names of the next larger plans, by the resource that they have more of: `disk`, `memory`.
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
        """Return whether the container ran at the time of the check."""
        return self.state.status == "Running"

    @property
    def disk_used(self) -> int | None:
        """Return the bytes that the tenant uses of its disk, None where that was not measured."""
        return self.disk.used if self.disk else None

    @property
    def snapshot_taken(self) -> int:
        """Return when the latest snapshot was taken, in epoch seconds, 0 where there is none.

        A snapshot dated in the future, by a clock that was ahead, is ignored.
        """
        return max((one.created for one in self.snapshots if one.created <= self.at), default=0)

    @property
    def snapshot_late(self) -> bool | None:
        """Return whether the next snapshot is late by a whole interval, None while it may be so because of a gap."""
        patience = 2 * self.snapshot_due
        # A creation in the future was recorded by a clock that was ahead.
        created = self.tenant.created if self.tenant.created <= self.at else 0
        if not patience or self.at - max(self.snapshot_taken, created) <= patience:
            return False
        return True if self.at - self.awake > patience else None

    @property
    def certificate_late(self) -> bool | None:
        """Return whether less than a quarter of the certificate's lifetime is left, None as in `snapshot_late`."""
        page = self.page
        if not (page and page.valid_until) or page.valid_until - self.at > (page.valid_until - page.valid_from) / 4:
            return False
        return True if self.at - self.awake > RENEWS else None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return what the tool inside measured; empty where it was not asked."""
        return self.inside["facts"] if self.inside else {}

    @property
    def checks(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the checks of the tool inside, as `status` shows them; empty where it was not asked."""
        return self.inside["checks"] if self.inside else {}

    @property
    def values(self) -> dict[str, str]:
        """Return the values that the remedies of any finding may use."""
        known = {"tenant": self.tenant.name, "oldest": self.oldest, "full": "yes" if is_full(self.disk) else ""}
        return known | {f"larger_{what}": name for what, name in self.larger.items()}


@dataclass(frozen=True)
class HostLook:
    """One health check of a host.

    `silent`: why it does not answer. `pool` and `resources` are None where it has none of its own, as for a whole
    cluster. `move`: a tenant and another host that has free space for it, where the pool is nearly full and such a pair
    exists.
    """

    host: str
    silent: str = ""
    pool: PoolSpace | None = None
    resources: Resources | None = None
    move: tuple[str, str] = ("", "")


Check = Callable[[Look, HealthSettings], Found | None]
HostCheck = Callable[[HostLook, Settings], Found | None]
CHECKS: dict[str, Check] = {}
"""The functions that find problems of a tenant, by the key of the finding."""
HOST_CHECKS: dict[str, HostCheck] = {}
"""The functions that find problems of a host, by the key of the finding."""


def finds(key: str) -> Callable[[Check], Check]:
    """Register the function of a tenant's finding. It takes a `Look`, and returns None where there is no problem.

    A finding that shows inside the tenant or on its page is only checked where the look has these measurements. Raises
    ValueError where the finding has its function already, or is none of a tenant.
    """

    def declare(check: Check) -> Check:
        if key in CHECKS or not FINDINGS[key].of_tenant:
            raise ValueError(f"The finding `{key}` has its function already, or is none of a tenant.")
        CHECKS[key] = check
        return check

    return declare


def finds_of_host(key: str) -> Callable[[HostCheck], HostCheck]:
    """Register the function of a host's finding, as `finds` does for a tenant."""

    def declare(check: HostCheck) -> HostCheck:
        if key in HOST_CHECKS or FINDINGS[key].of_tenant:
            raise ValueError(f"The finding `{key}` has its function already, or is one of a tenant.")
        HOST_CHECKS[key] = check
        return check

    return declare


def last_known(tenant: Tenant, known: KnownDisk | None, size: PlanSize | None, now: float) -> Disk | None:
    """Return the last known disk use of a tenant at epoch seconds `now`, with the limit that the tenant has now.

    None where nothing was measured since the tenant was created.
    """
    if known is None or not tenant.is_about(known.at, now):
        return None
    limit = size_bytes(tenant.disk) if tenant.disk else known.limit or (size_bytes(size.disk) if size else None)
    return Disk(known.used, limit, max(0, limit - known.used) if limit else 0)


def is_full(disk: Disk | None) -> bool:
    """Return whether a tenant can write no more, by its own disk limit."""
    return disk is not None and disk.used is not None and bool(disk.limit) and (disk.limit or 0) - disk.used < FULL


def larger_plans(plans: Mapping[str, PlanSize], disk: int, memory: int, has: str) -> dict[str, str]:
    """Return the next larger plans than these bytes by name, keyed by what they have more of: `disk` or `memory`.

    `has`: the tenant's plan. It may be larger in the settings by now, but a resize to the same plan is refused.
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
    """Say how a tenant gets more of a resource that it is short of; `larger` as `larger_plans` returns it."""
    return MORE[what].told({"tenant": tenant, f"larger_{what}": larger.get(what, "")})


def listed(names: list[str], most: int = 3) -> str:
    """Return the first `most` names as text, with the number of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
