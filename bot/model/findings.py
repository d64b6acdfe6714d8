"""Findings: every possible problem of a tenant, a host, the edge or the audit log, as one table row each. Pure.

To add a finding, add a row here and the function that finds it (`bot/fleet/health/`). Everything that depends on the
kind of a finding (incidents, the digest, the Home tab, `list`, `status`, `doctor`) reads the row. The database stores
the keys, so that they must not change; titles and sentences may. The file is longer than others to keep the table in
one place.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

from bot.model.remedies import MORE, RETRY, Remedy, logs, restart

EDGE = "the edge"
"""The subject of the finding that no page answers. The space keeps it apart from all host names."""
LOG = "the audit log"
"""The subject of the finding that the log differs from what was posted to Slack."""
FLEET = "the fleet"
"""The subject of findings about all tenants together."""
ABOUT_ALL = (LOG, FLEET)
"""The subjects that the health check of hosts and tenants does not judge."""


class Severity(IntEnum):
    """How severe a finding is, the worst first."""

    OFFLINE = 0
    """The client's site is offline."""
    UNKNOWN = 1
    """The state of the tenants on the host is unknown."""
    DEGRADED = 2
    """Something does not work."""
    WARNING = 3
    """Everything works for now, but will not for long."""


class Where(Enum):
    """Where a finding shows. Where the bot could not check, nothing is known about the finding."""

    INSIDE = "inside"
    """In the report of the tool inside the tenant."""
    PAGE = "page"
    """On the tenant's page, fetched through the edge."""
    CONTAINER = "container"
    """In what the server reports, or in the bot's own records."""
    HOST = "host"
    EDGE = "edge"
    LOG = "log"
    FLEET = "fleet"


class Judged(StrEnum):
    """In which state of a tenant a finding is looked for."""

    OPEN = "open"
    """While the tenant is meant to be open."""
    ALWAYS = "always"
    """Always, also while the tenant is suspended or stopped on purpose."""
    HALTED = "halted"
    """While an operation has left the tenant half way."""


@dataclass(frozen=True)
class Kind:
    """One row: everything that the bot knows about one kind of finding.

    key: Its name in the database and in code.
    title: Its headline.
    severity: How severe it is.
    where: Where it shows.
    meaning: What it means for clients, in a sentence.
    hides: Its effects, by key or by where they show. They may be true, but are not reported beside their cause.
    judged: In which state of the tenant it is looked for.
    blip: It may pass by itself (a restart, an update), so that a second check has to confirm it.
    falls: A full disk causes it, because nothing can be written; it is then not reported beside `disk`.
    needs: The measurement of a check that it depends on. Where the measurement is missing (None), it counts as unknown,
        not as resolved.
    threshold: The setting of [health] from which on it is a problem; 0 there switches it off.
    checks: The checks of the tool inside, by name, that are red for it (LINES has the names that people read).
    doctor: The line of `doctor` that is red for it.
    digest: The parts of the digest that report it already, so that its incident is not listed there again.
    remedies: The commands that help, in the order in which to run them.
    caused_by: The bot's own command whose failure causes it.
    spreads: For a host or the edge: every tenant there counts as affected.
    headline: Its text is the headline.
    """

    key: str
    title: str
    severity: Severity
    where: Where
    meaning: str
    hides: tuple[str | Where, ...] = ()
    judged: Judged = Judged.OPEN
    blip: bool = False
    falls: bool = False
    needs: str = ""
    threshold: str = ""
    checks: tuple[str, ...] = ()
    doctor: str = ""
    digest: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    caused_by: str = ""
    spreads: bool = False
    headline: bool = False

    @property
    def of_tenant(self) -> bool:
        """Whether it is a finding of a tenant."""
        return self.where in (Where.INSIDE, Where.PAGE, Where.CONTAINER)

    @property
    def buttons(self) -> dict[str, Remedy]:
        """The remedies that its incident shows as buttons, by command."""
        return {remedy.command: remedy for remedy in self.remedies if remedy.button}


_ROWS = (
    Kind(
        "stopped",
        "container stopped unexpectedly",
        Severity.OFFLINE,
        Where.CONTAINER,
        "The client's site is offline, and no e-mail is sent.",
        hides=(Where.INSIDE, Where.PAGE, "inside"),
        blip=True,
        digest=("halted",),
        remedies=(
            Remedy(
                "resize", {"tenant": "{tenant}", "--plan": "{larger_disk}"}, "gives the tenant more", needs=("full",)
            ),
            Remedy("start", {"tenant": "{tenant}"}, "starts the container", button="Start", style="primary"),
        ),
    ),
    Kind(
        "inside",
        "health check failed",
        Severity.DEGRADED,
        Where.CONTAINER,
        "The client may notice nothing, but nobody can tell whether e-mail and cron jobs work.",
        hides=(Where.INSIDE,),
        blip=True,
    ),
    Kind(
        "web",
        "web server down",
        Severity.OFFLINE,
        Where.INSIDE,
        "Visitors see an error page, and what they send by forms is lost.",
        hides=("page",),
        blip=True,
        falls=True,
        checks=("services",),
        remedies=(restart("web"), logs("nginx")),
    ),
    Kind(
        "database",
        "database down",
        Severity.OFFLINE,
        Where.INSIDE,
        "The client's site is offline, and no e-mail is sent.",
        hides=("page", "worker", "jobs", "queue", "failed", "work", "log"),
        blip=True,
        falls=True,
        checks=("services", "database"),
        remedies=(restart("database"), logs("mariadb")),
    ),
    Kind(
        "page",
        "site unreachable",
        Severity.OFFLINE,
        Where.PAGE,
        "The client can't log in, and visitors see an error page.",
        blip=True,
        checks=("open", "login page", "page through the edge"),
        digest=("halted",),
        remedies=(restart("web"), logs("mautic")),
    ),
    Kind(
        "worker",
        "e-mail not sending",
        Severity.DEGRADED,
        Where.INSIDE,
        "Nothing is lost: it is sent when the worker runs again.",
        hides=("queue",),
        blip=True,
        falls=True,
        checks=("services",),
        remedies=(restart("worker"), logs("mautic")),
    ),
    Kind(
        "cron",
        "cron down",
        Severity.DEGRADED,
        Where.INSIDE,
        "Nothing is lost: they continue when cron runs again.",
        hides=("jobs", "work"),
        blip=True,
        falls=True,
        checks=("services",),
        remedies=(restart("cron"), logs("cron")),
    ),
    Kind(
        "look",
        "needless PHP starts",
        Severity.WARNING,
        Where.INSIDE,
        "The client notices nothing; it costs the host processor time.",
        blip=True,
        falls=True,
        checks=("services",),
        remedies=(restart("cron"), logs("cron")),
    ),
    Kind(
        "jobs",
        "cron jobs failing",
        Severity.DEGRADED,
        Where.INSIDE,
        "Some of the client's segments, campaigns or imports are late.",
        hides=("work",),
        falls=True,
        checks=("crons",),
        remedies=(restart("cron"), logs("cron")),
    ),
    Kind(
        "queue",
        "e-mail queue delayed",
        Severity.DEGRADED,
        Where.INSIDE,
        "The client's e-mail is late.",
        falls=True,
        threshold="queue_minutes",
        checks=("queues",),
        remedies=(restart("worker"), logs("mautic")),
    ),
    Kind(
        "failed",
        "e-mails failed",
        Severity.DEGRADED,
        Where.INSIDE,
        "Some of the client's contacts did not get their e-mail.",
        falls=True,
        checks=("failed mail",),
        remedies=(
            Remedy(
                "console",
                {"tenant": "{tenant}", "command": "messenger:failed:show"},
                "lists the failed e-mails",
                needs=("kept",),
            ),
            Remedy(
                "console",
                {"tenant": "{tenant}", "command": "messenger:failed:retry"},
                "retries them",
                needs=("kept",),
            ),
            Remedy("logs", {"tenant": "{tenant}", "what": "mautic"}, "shows why", needs=("nowhere",)),
            logs("mautic"),
        ),
    ),
    Kind(
        "work",
        "processing delayed",
        Severity.DEGRADED,
        Where.INSIDE,
        "The client's campaigns, imports or reports are late.",
        falls=True,
        checks=("work",),
        remedies=(logs("mautic"),),
    ),
    Kind(
        "log",
        "high error rate",
        Severity.DEGRADED,
        Where.INSIDE,
        "Some actions of the client in Mautic may fail.",
        falls=True,
        threshold="log_errors",
        checks=("log",),
        remedies=(logs("mautic"),),
    ),
    Kind(
        "memory",
        "memory nearly full",
        Severity.WARNING,
        Where.INSIDE,
        "The client's Mautic may become slow, or crash.",
        blip=True,
        threshold="memory",
        checks=("memory",),
        digest=("memory",),
        remedies=(MORE["memory"],),
    ),
    Kind(
        "disk",
        "disk nearly full",
        Severity.WARNING,
        Where.CONTAINER,
        "When the disk is full, the client's site goes offline, and no e-mail is sent.",
        judged=Judged.ALWAYS,
        needs="disk_used",
        threshold="disk",
        checks=("disk",),
        digest=("disk",),
        remedies=(MORE["disk"],),
    ),
    Kind(
        "certificate",
        "certificate not renewed",
        Severity.WARNING,
        Where.PAGE,
        "When the certificate expires, browsers warn the client's visitors.",
        hides=("page",),
        needs="certificate_late",
    ),
    Kind(
        "snapshot",
        "snapshots missing",
        Severity.WARNING,
        Where.CONTAINER,
        "After a data loss the client would get back an older state than promised.",
        needs="snapshot_late",
        digest=("missing",),
        remedies=(Remedy("snapshot", {"tenant": "{tenant}"}, "takes one now"),),
        caused_by="snapshot",
    ),
    Kind(
        "snapshots",
        "snapshots near their limit",
        Severity.WARNING,
        Where.CONTAINER,
        "The oldest snapshots are deleted, so the client can't go back as far as promised.",
        threshold="snapshots",
        remedies=(
            Remedy("snapshots", {"tenant": "{tenant}"}, "lists the snapshots"),
            Remedy("prune", {"tenant": "{tenant}", "snapshots": "{oldest}"}, "deletes the oldest"),
        ),
    ),
    Kind(
        "upgraded",
        "worse since the upgrade",
        Severity.DEGRADED,
        Where.PAGE,
        "The client may notice that the site is slower, or that parts of it fail.",
        blip=True,
        remedies=(
            Remedy(
                "rollback",
                {"tenant": "{tenant}"},
                "goes back to the previous container",
                button="Roll back",
                style="danger",
            ),
            logs("mautic"),
        ),
    ),
    Kind(
        "address",
        "wrong IP address",
        Severity.DEGRADED,
        Where.CONTAINER,
        "The client's site may be unreachable.",
        judged=Judged.ALWAYS,
        blip=True,
        remedies=(Remedy("restart", {"tenant": "{tenant}"}, "assigns a new address", needs=("rival",)),),
    ),
    Kind(
        "move",
        "move, restore or upgrade stuck",
        Severity.DEGRADED,
        Where.CONTAINER,
        "The client's site may be offline. No data is lost while it waits for a decision.",
        judged=Judged.HALTED,
        digest=("halted",),
        remedies=(Remedy("start", {"tenant": "{tenant}"}, "brings the site online", needs=("forgotten",)),),
        headline=True,
    ),
    Kind(
        "errand",
        "background task failing",
        Severity.DEGRADED,
        Where.CONTAINER,
        "The client notices nothing yet.",
        judged=Judged.ALWAYS,
        digest=("failed_maintenance", "halted_maintenance"),
        remedies=(Remedy(RETRY, button="Retry", style="primary"),),
    ),
    Kind(
        "server",
        "server not answering",
        Severity.UNKNOWN,
        Where.HOST,
        "Sites on this server may be offline, and can't be managed.",
        hides=("pool", "strain"),
        blip=True,
        doctor="Servers",
        digest=("silent",),
        spreads=True,
    ),
    Kind(
        "edge",
        "edge not answering",
        Severity.OFFLINE,
        Where.EDGE,
        "No client's site can be reached.",
        blip=True,
        doctor="Edge",
        spreads=True,
    ),
    Kind(
        "pool",
        "storage pool nearly full",
        Severity.WARNING,
        Where.HOST,
        "When the pool is full, all sites on this host go offline.",
        threshold="pool",
        doctor="Free space",
        digest=("full_pools",),
        remedies=(Remedy("migrate", {"tenant": "{tenant}", "host": "{host}"}, "moves a tenant away"),),
    ),
    Kind(
        "strain",
        "host overloaded",
        Severity.DEGRADED,
        Where.HOST,
        "Sites on this host may be slow.",
        blip=True,
        doctor="Memory",
        remedies=(Remedy("hosts", {}, "shows the other hosts"),),
    ),
    Kind(
        "quotas",
        "disk limits not enforced",
        Severity.WARNING,
        Where.HOST,
        "One tenant can fill the disk for all clients on this host.",
        doctor="Quotas",
    ),
    Kind(
        "audit",
        "audit log altered or replaced",
        Severity.WARNING,
        Where.LOG,
        "Clients notice nothing, but the log no longer proves who did what.",
        doctor="Audit log",
    ),
    Kind(
        "advisories",
        "known security holes",
        Severity.WARNING,
        Where.FLEET,
        "Attackers may be able to read or change these clients' data.",
        doctor="Security",
        remedies=(
            Remedy(
                "rollout",
                {"version": "{cure}", "--holes": ""},
                "plans the upgrade",
                button="Plan rollout",
                style="primary",
            ),
        ),
    ),
)
FINDINGS: Mapping[str, Kind] = {row.key: row for row in _ROWS}
"""Every kind of finding by its key, in the order in which a tenant's findings are listed."""


def kind(key: str) -> Kind:
    """Return the row of a kind; for a key that only a later release knows, a row with nothing but the key."""
    return FINDINGS.get(key) or Kind(key, key, Severity.DEGRADED, Where.CONTAINER, "")


LINES: Mapping[str, str] = {
    "open": "Open to the public",
    "services": "Services",
    "login page": "Login page",
    "database": "Database",
    "work": "Processing",
    "queues": "E-mail queue",
    "failed mail": "Failed e-mails (24 h)",
    "crons": "Cron jobs",
    "log": "Errors (24 h)",
    "disk": "Disk",
    "memory": "Memory",
    "page through the edge": "Public page",
}
"""The name that people read for each check of the tool inside a tenant, and for the page, by the check's name."""


def line(check: str) -> str:
    """Return the name that people read for a check; for a check that only another release knows, its own name."""
    return LINES.get(check, check.capitalize())


def red(check: str) -> str:
    """Return in a few words what a red check means: the title of its first finding.

    Several findings tell the services apart, so that check says only that some are down.
    """
    titled = next((row.title for row in _ROWS if check in row.checks and check != "services"), "")
    return titled or f"{line(check).lower()} down"


@functools.cache
def keys(*, judged: Judged) -> frozenset[str]:
    """Return the kinds that are looked for in this state of a tenant."""
    return frozenset(row.key for row in _ROWS if row.judged == judged)


def seen(*where: Where) -> frozenset[str]:
    """Return the kinds that show in these places."""
    return frozenset(row.key for row in _ROWS if row.where in where)


def hidden(causes: Iterable[str]) -> frozenset[str]:
    """Return the kinds that these causes hide."""
    names = {name for cause in causes for name in kind(cause).hides}
    return frozenset(row.key for row in _ROWS if row.key in names or row.where in names)


def titles(found: Collection[str]) -> str:
    """Return the titles of these kinds as one text, in the order of the table."""
    if not found:
        # The shortcut pays in a list of a thousand tenants, of which most have no finding.
        return ""
    order = [*FINDINGS, *sorted(set(found) - FINDINGS.keys())]
    return ", ".join(kind(key).title for key in order if key in found)


def heeded(row: Kind, limits: object) -> bool:
    """Return whether a kind is reported by the settings of [health]: not where its threshold is 0."""
    return not row.threshold or bool(getattr(limits, row.threshold))


SENT = tuple(dict.fromkeys(row.threshold for row in _ROWS if row.threshold and row.checks))
"""The settings of [health] that the tool inside a tenant needs for its checks."""
