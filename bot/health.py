"""What is wrong with a tenant or a host, from one look at it. Pure: it asks nobody and remembers nothing.

A cause hides its effects: where the container is stopped, nothing is said of the page; what is hidden, or could not be
looked at, is `unseen`, which is neither sick nor well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.labels import State
from bot.lxd import InstanceState, PoolSpace, Snapshot, size_bytes
from bot.mautic import Disk
from bot.messages import seconds, size
from bot.samples import KnownDisk
from bot.settings import HealthSettings
from bot.tenants import PlanSize, Tenant
from bot.words import tame


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
class Look:
    """One look at a tenant, at epoch seconds `at`.

    `inside` are the facts and checks of `Mautic.health`, or None with the `trouble` of asking for them; `page` is None
    where it was not asked for. `half_done`: the operation that came to a halt on it, 0: none, and `left` what it
    left, in sentences. `snapshot_due`: seconds
    within which snapshots are to follow each other, 0: none are; `awake`: since when the bot has been there for that.
    `rival`: another instance that has its address, and `foreign`: the address of its own is not one that tenants have.
    `held`: bytes that its snapshots hold at least, and `allowed`: that they may, 0: no limit.
    `disk`: what it uses of its disk, as it was measured now, or with `disk_at` at an earlier time, as of one that does
    not run. `larger`: the names of the next larger plans, by what they have more of: `disk`, `memory`.
    """

    tenant: Tenant
    at: float
    state: InstanceState
    snapshots: tuple[Snapshot, ...] = ()
    size: PlanSize | None = None
    inside: Mapping[str, Any] | None = None
    trouble: str = ""
    page: Page | None = None
    disk: Disk | None = None
    disk_at: float = 0
    larger: Mapping[str, str] = field(default_factory=dict)
    half_done: int = 0
    left: str = ""
    snapshot_due: float = 0
    awake: float = 0
    held: int = 0
    allowed: int = 0
    rival: str = ""
    foreign: bool = False


@dataclass(frozen=True)
class Finding:
    """What is wrong, in one sentence that one can act on."""

    kind: str
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, and the kinds of which this look cannot tell.

    `rests`: how somebody let it stand still, "suspended" or "stopped"; then only what is AT_REST is judged.
    `given_up`: what failed is tried no more, so that nothing shows that it is well.
    """

    findings: tuple[Finding, ...] = ()
    unseen: frozenset[str] = field(default_factory=frozenset)
    rests: str = ""
    given_up: bool = False


TITLES = {
    "stopped": "the container does not run",
    "inside": "the bot cannot look inside",
    "database": "the database is down",
    "web": "the web server is down",
    "page": "the page is not there",
    "worker": "mail is not sent",
    "cron": "cron is down",
    "jobs": "jobs do not succeed",
    "queue": "mail waits too long",
    "failed": "mails that Mautic gave up on",
    "work": "work is overdue",
    "log": "many errors in the log",
    "memory": "memory is nearly full",
    "disk": "the disk is nearly full",
    "certificate": "the certificate is not renewed",
    "snapshot": "snapshots are missing",
    "snapshots": "its snapshots hold much",
    "address": "its address is not its own",
    "move": "a restore or move came to a halt",
    "errand": "what the bot does by itself fails",
    "server": "the server does not answer",
    "edge": "the edge does not answer",
    "pool": "the storage pool is nearly full",
    "strain": "the host is in distress",
    "quotas": "disks are not counted",
    "audit": "it is not the one that Slack saw",
}
"""Every kind of finding, and its words in a headline."""

AT_REST = frozenset(["disk", "errand", "address"])
"""What is judged of a tenant that is meant to stand still too."""

CHECKS: Mapping[str, tuple[str, ...]] = {
    "open": ("page",),
    "services": ("web", "database", "worker", "cron"),
    "login page": ("page",),
    "database": ("database",),
    "work": ("work",),
    "queues": ("queue",),
    "failed mail": ("failed",),
    "crons": ("jobs",),
    "log": ("log",),
    "disk": ("disk",),
    "memory": ("memory",),
}
"""The checks of the tool inside, as `status` shows them, and the kinds of finding that one which is red is told as.

One that is red is always told: where nothing else has found it, as the first of its kinds, in the check's own words.
"""

OFFLINE = frozenset(["stopped", "database", "web", "page", "edge"])
"""Kinds that leave a client without a page."""

LOG = "the audit log"
"""Whose trouble it is when the log is not the one that Slack saw."""
EDGE = "the edge"
"""Whose trouble it is when no page answers; with a space, which no host's name has."""

_INSIDE = frozenset(["database", "web", "worker", "cron", "jobs", "queue", "failed", "work", "log", "memory"])
_OUTSIDE = frozenset(["page", "certificate"])
_HIDES: Mapping[str, frozenset[str]] = {
    "stopped": _INSIDE | _OUTSIDE | {"inside"},
    "inside": _INSIDE,
    "database": frozenset(["page", "worker", "jobs", "queue", "failed", "work", "log"]),
    "web": frozenset(["page"]),
    "certificate": frozenset(["page"]),
    "worker": frozenset(["queue"]),
    "cron": frozenset(["jobs", "work"]),
    "jobs": frozenset(["work"]),
}
"""Effects of a cause: true as they may be, they are no news beside it."""

FULL = 64 << 20
"""Bytes that a tenant has to be able to write, or nothing in it works: then that is the cause of all else."""

SENTENCE = 1000
"""Characters of a finding: it stands in messages, and for ever in the audit log."""

BLIPS = frozenset(
    ["stopped", "inside", "database", "web", "page", "worker", "cron", "memory", "address", "server", "edge", "strain"]
)
"""What may be over in a moment (a restart, an update), so that a second look has to find it too."""

RESTART = {
    "database": "database",
    "web": "web",
    "page": "web",
    "worker": "worker",
    "queue": "worker",
    "cron": "cron",
    "jobs": "cron",
}
"""The part of a tenant whose restart may help."""

LOGS = {"database": "mariadb", "web": "nginx", "cron": "cron", "jobs": "cron"} | dict.fromkeys(
    ["page", "worker", "queue", "failed", "work", "log"], "mautic"
)
"""The log that tells most."""


def diagnose(look: Look, limits: HealthSettings) -> Diagnosis:
    """Say what is wrong with a tenant. Of one that is not meant to be open only the disk counts."""
    findings = [
        Finding(found.kind, tame(found.text, SENTENCE))
        for found in _all(look, limits)
        if found and limits.judges(found.kind)
    ]
    at_rest = tuple(found for found in findings if found.kind in AT_REST)
    if look.tenant.state not in (State.LIVE, State.SUSPENDED):
        # An operation left it half way.
        moving = (_move(look),) if look.tenant.state == State.MOVING else ()
        return Diagnosis((*at_rest, *moving), frozenset(TITLES) - AT_REST - {"move"} | _blind(look))
    suspended = look.tenant.state == State.SUSPENDED
    if suspended or (look.tenant.stopped and look.state.status != "Running"):
        return Diagnosis(at_rest, _blind(look), rests="suspended" if suspended else "stopped")
    full = is_full(look.disk) and any(found.kind == "disk" for found in findings)
    # Where nothing can be written, what fell is no trouble of its own. That the page is not there is one all the same.
    fell = _INSIDE - {"memory"} if full else frozenset()
    causes = [found.kind for found in findings if found.kind not in fell]
    hidden = fell.union(*(_HIDES.get(kind, frozenset()) for kind in causes))
    unseen = hidden | (_INSIDE if look.inside is None else frozenset()) | _blind(look)
    if look.page is None:
        unseen |= _OUTSIDE
    elif not look.page.valid_until:
        unseen |= {"certificate"}
    return Diagnosis(tuple(found for found in findings if found.kind not in hidden), unseen)


def _blind(look: Look) -> frozenset[str]:
    """What cannot be told of its disk: that nothing is measured is no recovery."""
    return frozenset(["disk"]) if look.disk is None or look.disk.used is None else frozenset()


def _all(look: Look, limits: HealthSettings) -> list[Finding | None]:
    if look.state.status != "Running":
        return [_stopped(look), _disk(look, limits), _snapshot(look), _snapshots(look, limits)]
    found = [
        Finding("inside", look.trouble) if look.trouble else None,
        *(_inside(look, limits) if look.inside is not None else ()),
        _page(look.page) if look.page else None,
        _certificate(look.page, look.at) if look.page else None,
        _disk(look, limits),
        _snapshot(look),
        _snapshots(look, limits),
        _address(look),
    ]
    kinds = {one.kind for one in found if one}
    return [*found, *_untold(look.inside["checks"] if look.inside else {}, kinds)]


def _untold(checks: Mapping[str, Mapping[str, Any]], kinds: set[str]) -> list[Finding]:
    """Tell of each check that is red, and that no finding of these kinds tells of."""
    told: dict[str, Finding] = {}
    for name, check in checks.items():
        own = CHECKS.get(name, ("inside",))
        if not check["ok"] and not kinds & {*own}:
            told.setdefault(own[0], Finding(own[0], f"{name.capitalize()}: {check['text']}."))
    return list(told.values())


def _move(look: Look) -> Finding:
    serves = look.page is not None and look.page.login
    page = "the new container serves it" if serves else "its page is not there"
    if not look.half_done:
        return Finding("move", f"It was left half way, and {page}; `/mautic start {look.tenant.name}` lets it go on.")
    if look.left:
        return Finding("move", f"{look.left} Retry and Undo are in the thread of operation {look.half_done}.")
    loses = ", which loses what is written to it by then" if serves else ""
    how = f"Retry or Undo{loses}, in its thread"
    return Finding("move", f"Operation {look.half_done} left it half way, and {page}: {how}.")


def _stopped(look: Look) -> Finding:
    name = look.tenant.name
    way = f"`/mautic start {name}` starts it"
    if is_full(look.disk):
        way = f"its disk is full: {more_of('disk', name, look.larger)}, and then {way}"
    return Finding(
        "stopped",
        f"It is {look.state.status.lower()} though it should run; {way}.",
    )


def _inside(look: Look, limits: HealthSettings) -> list[Finding | None]:
    """What the tool inside saw."""
    inside = look.inside or {}
    facts, checks = inside["facts"], inside["checks"]
    services: Mapping[str, str] = facts["services"]

    def down(*names: str) -> str:
        return ", ".join(
            f"`{unit}` is {state}"
            for unit, state in services.items()
            if unit.startswith(names) and state not in ("active", "activating", "reloading")
        )

    database = down("mariadb") or ("" if facts["database"] else "MariaDB does not answer")
    web, worker, cron = down("nginx", "php"), down("mautic-worker@"), down("cron")
    late = [f"`{command}` ({job['why']})" for command, job in facts["crons"].items() if job["late"]]
    age, errors = facts.get("queue_age") or 0, facts["log_errors_day"]
    work = checks.get("work", {"ok": True})
    return [
        Finding("database", f"{database}, so nothing works in it.") if database else None,
        Finding("web", f"{web}, so no page is there.") if web else None,
        Finding("worker", f"{worker}, so mail waits in the queue.") if worker else None,
        Finding("cron", f"{cron}, so segments, campaigns and imports stand still.") if cron else None,
        Finding("jobs", f"Not done in time: {', '.join(late[:3])}{_more(late[3:])}.") if late else None,
        Finding("queue", f"The oldest message in the queue has waited {seconds(age)} for its worker.")
        if age > limits.queue_minutes * 60
        else None,
        _failed(look.tenant.name, facts),
        None if work["ok"] else Finding("work", f"Overdue although its jobs run: {work['text']}."),
        Finding("log", f"{errors} errors in Mautic's log within a day.") if errors > limits.log_errors else None,
        _memory(look, facts, limits),
    ]


def _failed(tenant: str, facts: Mapping[str, Any]) -> Finding | None:
    failed = facts.get("failed_mails") or {"day": 0, "kept": 0}
    if not failed["day"]:
        return None
    again = (
        f"; {failed['kept']} lie in its queue of failed ones: `/mautic console {tenant} messenger:failed:show` lists "
        f"them, and `/mautic console {tenant} messenger:failed:retry` tries them again"
        if failed["kept"]
        else f"; `/mautic logs {tenant} mautic` tells why"
    )
    return Finding("failed", f"Mautic gave up on {failed['day']} mails within a day{again}.")


def _more(rest: list[str]) -> str:
    return f" and {len(rest)} more" if rest else ""


def _memory(look: Look, facts: Mapping[str, Any], limits: HealthSettings) -> Finding | None:
    limit = facts.get("memory_limit") or (size_bytes(look.size.memory) if look.size else 0)
    used = facts["memory"]
    if not limit or used * 100 <= limit * limits.memory:
        return None
    more = more_of("memory", look.tenant.name, look.larger)
    return Finding("memory", f"{used / limit:.0%} of its memory is in use: {size(used)} of {size(limit)}; {more}.")


def last_known(tenant: Tenant, known: KnownDisk | None, size: PlanSize | None) -> Disk | None:
    """Return what was measured last of the disk of a tenant that does not run, with the limit that it has now."""
    if known is None or known.at < tenant.created:
        return None
    limit = size_bytes(tenant.disk) if tenant.disk else known.limit or (size_bytes(size.disk) if size else None)
    return Disk(known.used, limit, max(0, limit - known.used) if limit else 0)


def is_full(disk: Disk | None) -> bool:
    """Whether a tenant can write no more, by its own limit."""
    return disk is not None and disk.used is not None and bool(disk.limit) and (disk.limit or 0) - disk.used < FULL


def _disk(look: Look, limits: HealthSettings) -> Finding | None:
    disk = look.disk
    if disk is None or disk.used is None or not disk.limit or disk.used * 100 <= disk.limit * limits.disk:
        return None
    known = f"{size(disk.used)} of {size(disk.limit)}"
    if look.disk_at:
        known += ", when it was measured last"
    elif is_full(look.disk):
        known += ", so nothing in it can write"
    more = more_of("disk", look.tenant.name, look.larger)
    return Finding("disk", f"{disk.used / disk.limit:.0%} of its disk is in use: {known}; {more}.")


def larger_plans(plans: Mapping[str, PlanSize], disk: int, memory: int) -> dict[str, str]:
    """Return the names of the next larger plans than these bytes, by what they have more of: `disk`, `memory`."""
    sizes = {name: {"disk": size_bytes(plan.disk), "memory": size_bytes(plan.memory)} for name, plan in plans.items()}
    have = {"disk": disk, "memory": memory}
    found = {}
    for what, other in (("disk", "memory"), ("memory", "disk")):
        more = [name for name, size in sizes.items() if size[what] > have[what] and size[other] >= have[other]]
        if more and have[what]:
            found[what] = min(more, key=lambda name: (sizes[name][what], sizes[name][other]))
    return found


def more_of(what: str, tenant: str, larger: Mapping[str, str]) -> str:
    """Say how a tenant gets more of what it is short of; `larger` as `larger_plans` returns it."""
    if what in larger:
        return f"`/mautic resize {tenant} --plan {larger[what]}` gives it more"
    return f"no plan has more {what}: whoever keeps the bot's settings can add one, under `[plans]`"


def _page(page: Page) -> Finding | None:
    return None if page.login else Finding("page", f"Instead of the login page the edge gives: {page.answer}.")


def _certificate(page: Page, at: float) -> Finding | None:
    """Certificates live for hours or for months, and are renewed when a third of that is left."""
    if not page.valid_until:
        expired = "certificate has expired" in page.answer
        return Finding("certificate", "Its certificate has expired, so browsers refuse it.") if expired else None
    left = page.valid_until - at
    if left > (page.valid_until - page.valid_from) / 4:
        return None
    return Finding("certificate", f"Its certificate ends in {seconds(left)} and has not been renewed.")


def _address(look: Look) -> Finding | None:
    """An address that it was not given alone is never routed to; one that it took itself leads nowhere."""
    address, name = look.tenant.address, look.tenant.name
    unrouted = f"Its address is {address}, so the edge sends nobody to it"
    if look.rival:
        return Finding(
            "address", f"{unrouted}: `{look.rival}` has that too; `/mautic restart {name}` gives it another."
        )
    if look.foreign:
        return Finding(
            "address",
            f"{unrouted}: it is not one that tenants have. Take the device `eth0` off `{look.tenant.instance}` on the "
            "server, and it is given another.",
        )
    taken = [one for one in look.state.addresses if one != address] if address else []
    if not taken:
        return None
    return Finding(
        "address",
        f"Inside it has taken {', '.join(taken[:3])}{_more(taken[3:])}, and was given {address}. It gets nothing by "
        "that, since the edge goes by what was given; but only who is root in it can do so: take it for broken into.",
    )


def _snapshot(look: Look) -> Finding | None:
    """Late by a whole interval: a snapshot that waits for its turn is none that is missing.

    One that a clock ahead dated after now tells nothing.
    """
    if not look.snapshot_due:
        return None
    last = max((one.created for one in look.snapshots if one.created <= look.at), default=0)
    if look.at - max(last, look.tenant.created, look.awake) <= 2 * look.snapshot_due:
        return None
    ago = f"Its last snapshot is {seconds(look.at - last)} old" if last else "It has no snapshot"
    return Finding("snapshot", f"{ago}; one is due every {seconds(look.snapshot_due)}.")


def _snapshots(look: Look, limits: HealthSettings) -> Finding | None:
    """Its past takes room from all that stand on its host: told before the oldest of it has to go."""
    if not look.allowed or look.held * 100 <= look.allowed * limits.snapshots:
        return None
    name = look.tenant.name
    beyond = "so none is taken and the oldest go" if look.held > look.allowed else "and beyond that the oldest go"
    return Finding(
        "snapshots",
        f"Its snapshots hold {size(look.held)} of the {size(look.allowed)} that its plan allows, {beyond}; "
        f"`/mautic snapshots {name}` lists them, and `/mautic prune {name} <snapshot>` removes one.",
    )


def pool_finding(
    host: str, space: PoolSpace, limits: HealthSettings, move: str = "", *, reserve: int = 0
) -> Finding | None:
    """Say whether the pool of a host is nearly full: all its tenants stop when it is.

    `move`: the tenant and the host of a move that would help, where there is one. `reserve`: percent that have to be
    free for snapshots to be taken.
    """
    short = (space.total - space.used) * 100 < space.total * reserve
    held_back = f" No snapshot is taken there, and the oldest go, until {reserve}% are free." if short else ""
    way_out = f", or `/mautic migrate {move}` takes a tenant away" if move else ""
    if not limits.judges("pool") or space.used <= space.total * limits.pool / 100:
        return None
    return Finding(
        "pool",
        f"{space.used / space.total:.0%} of the pool of `{host}` is in use, {size(space.total - space.used)} are left; "
        f"enlarge it{way_out}.{held_back}",
    )
