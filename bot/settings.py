"""Settings: the shipped `default.toml`, overlaid with a file and with the environment. Frozen.

Each field names the form (`bot/model/forms.py`) that reads it; the error about a value of another form names the key.
Where a number is a count or a duration, 0 means none, or never. Longer than other modules, to keep all tables together.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from bot.model import forms
from bot.model.forms import (
    NAME,
    Form,
    bridge,
    form_of,
    ipv4,
    lxd_size,
    number,
    one_of,
    optional,
    path,
    secret,
    text,
    whole,
)
from bot.model.releases import number as version_number
from bot.model.tenants import PlanSize

DEFAULTS = Path(__file__).with_name("default.toml")
PREFIX = "MAUTIC_OPS_"
Port = Annotated[int, whole(1, 65535)]
Percent = Annotated[int, whole(0, 100)]
Days = Annotated[int, whole(0, 100_000)]
Count = Annotated[int, whole(0, 10_000)]
File = Annotated[str, optional(path())]
Named = Annotated[str, text("a name of letters, digits, dots, hyphens and underscores, of at most 63", NAME)]
Endpoint = text(
    "the path of a unix socket, or an address such as `https://10.0.0.5:8443`",
    r"/[^\x00-\x1f]+|https://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?",
)


class InvalidSettings(Exception):
    """The configuration cannot be used; the text says which key and why."""


@dataclass(frozen=True)
class BotSettings:
    state: Annotated[str, path()]
    base_domain: Annotated[str, forms.domain()]
    timezone: Annotated[str, forms.timezone()]
    workers: Annotated[int, whole(1, 64)]


@dataclass(frozen=True)
class SlackSettings:
    api: Annotated[
        str, text("the address of a Web API, such as `https://slack.com/api/`", r"https?://[^\s/]+/([^\s]*/)?")
    ]
    channel: Annotated[
        str,
        optional(
            text(
                "the id of a channel, such as `C0123456789` (Slack shows it at the end of the channel's details)",
                r"[CG][A-Z0-9]{2,20}",
            )
        ),
    ]
    http_port: Annotated[int, whole(0, 65535)]
    # From the environment only, and never shown.
    bot_token: Annotated[str, secret()] = field(default="", repr=False)
    app_token: Annotated[str, secret()] = field(default="", repr=False)
    signing_secret: Annotated[str, secret()] = field(default="", repr=False)

    def check_tokens(self) -> None:
        """Raise InvalidSettings for a missing or wrong token, or a missing secret to verify Slack's requests with."""
        if not self.bot_token:
            raise InvalidSettings("SLACK_BOT_TOKEN is not set; `make up` without tokens starts the local workspace.")
        for name, token, kind in (("BOT", self.bot_token, "xoxb"), ("APP", self.app_token, "xapp")):
            if token and not token.startswith(kind):
                raise InvalidSettings(f"SLACK_{name}_TOKEN does not begin with `{kind}-`; it is another token.")
        if self.http_port and not self.signing_secret:
            raise InvalidSettings("SLACK_SIGNING_SECRET is not set; slack.http_port needs it.")
        if not self.http_port and not self.app_token:
            raise InvalidSettings("SLACK_APP_TOKEN is not set; Socket Mode needs it.")


@dataclass(frozen=True)
class LxdSettings:
    endpoint: Annotated[str, optional(forms.or_word("simulated", Endpoint))]
    name: Named
    certificate: File
    key: File
    server_certificate: File
    project: Named
    pool: Named
    pool_driver: Annotated[str, one_of("btrfs", "zfs", "lvm", "dir", "ceph")]
    pool_size: Annotated[str, lxd_size(1 << 30)]
    network: Annotated[
        str,
        text(
            "the name of a bridge: letters, digits and hyphens, of at most 15",
            r"[A-Za-z0-9]([A-Za-z0-9-]{0,13}[A-Za-z0-9])?",
        ),
    ]
    subnet: Annotated[str, bridge()]
    reachable: Annotated[list[str], forms.targets()]
    profile: Named

    @property
    def simulated(self) -> bool:
        """Whether LXD is simulated, which every message then says."""
        return self.endpoint == "simulated"


@dataclass(frozen=True)
class ServerSettings:
    """One more LXD server; project, pool, network, subnet and profile are those of `[lxd]`."""

    endpoint: Annotated[str, Endpoint]
    listen: Annotated[str, optional(ipv4())] = ""
    certificate: File = ""
    key: File = ""
    server_certificate: File = ""


@dataclass(frozen=True)
class EdgeSettings:
    tls: Annotated[Literal["internal", "automatic"], one_of("internal", "automatic")]
    email: Annotated[str, optional(text("an e-mail address", r"[^\s@<>,;]+@[^\s@<>,;]+\.[^\s@<>,;.]+"))]
    listen: Annotated[str, ipv4()]
    http_port: Port
    https_port: Port

    def url(self, domain: str) -> str:
        """Return the public address of a domain behind the edge."""
        return f"https://{domain}" + ("" if self.https_port == 443 else f":{self.https_port}")


@dataclass(frozen=True)
class BlueprintSettings:
    archive: File
    sha256: Annotated[str, optional(forms.hexadecimal(64))]
    base: Annotated[str, text('"debootstrap", or the alias of an image', r"[\w][\w./:-]{0,254}")]


@dataclass(frozen=True)
class ReleaseSettings:
    """One release of Mautic: the path or URL of its archive."""

    archive: Annotated[str, path()]
    sha256: Annotated[str, forms.hexadecimal(64)]


@dataclass(frozen=True)
class AdvisorySettings:
    """Advisories beside the built-in ones, and the severity from which a version is refused to new tenants."""

    extra: File
    sha256: Annotated[str, optional(forms.hexadecimal(64))]
    refuse: Annotated[
        Literal["", "critical", "high", "medium", "low"], optional(one_of("critical", "high", "medium", "low"))
    ]


@dataclass(frozen=True)
class SnapshotSettings:
    """How many of a tenant's snapshots are kept of each tier, and how much space they may take.

    `reserve`: percent of a pool that is kept free of snapshots. `limit`: percent of a plan's disk that a tenant's
    snapshots may hold. `ballast`: space that the bot occupies and gives up when a pool is full, as an LXD size.
    """

    hourly: Count
    daily: Count
    weekly: Count
    monthly: Count
    reserve: Percent = 10
    limit: Count = 100
    ballast: Annotated[str, lxd_size(0)] = "64MiB"

    def __str__(self) -> str:
        tiers = ((self.hourly, "hourly"), (self.daily, "daily"), (self.weekly, "weekly"), (self.monthly, "monthly"))
        return ", ".join(f"{count} {tier}" for count, tier in tiers if count) or "none"


@dataclass(frozen=True)
class RetentionSettings:
    archive_days: Days
    retired_days: Days
    credentials_hours: Annotated[int, whole(0, 8760)]


@dataclass(frozen=True)
class HealthSettings:
    memory: Percent
    disk: Percent
    pool: Percent
    snapshots: Percent
    queue_minutes: Annotated[int, whole(0, 100_000)]
    log_errors: Annotated[int, whole(0, 1_000_000)]


@dataclass(frozen=True)
class JobSettings:
    """Mautic's jobs in tenants; `unconditional`: minutes after which a job runs even if there is nothing to do."""

    unconditional: Annotated[int, whole(0, 1440)]


@dataclass(frozen=True)
class CapacitySettings:
    """How many tenants a host may run; `reserve`: percent of its memory, or an LXD size."""

    reserve: Annotated[
        str, text("a share of a host's memory, such as `10%`, or a size, such as `4GiB`", r"\d{1,2}%|\d+([kKMGT]i?B)?")
    ]
    overcommit: Annotated[float, number(0, 1000)]
    tenants: Count
    expected: Annotated[int, whole(1, 100)]
    starts: Annotated[int, whole(1, 64)]
    start_delay: Annotated[int, whole(0, 600)]
    load: Annotated[float, number(0, 1000)]
    slow: Annotated[float, number(0, 600)]


@dataclass(frozen=True)
class BatchSettings:
    """How a batch is carried out; `approvals`: the fewest that a batch needs."""

    at_once: Annotated[int, whole(1, 64)]
    at_once_host: Annotated[int, whole(1, 64)]
    stop_after: Annotated[int, whole(1, 1000)]
    approvals: Annotated[int, whole(0, 10)]


@dataclass(frozen=True)
class UpgradeSettings:
    """When upgrades begin, and for how long they are watched.

    `window`: the hours in which upgrades begin, "": any. `watch`: minutes after an upgrade for which a tenant is
    compared with the day before; 0: none.
    """

    window: Annotated[str, optional(forms.hours())]
    watch: Annotated[int, whole(0, 10_080)]


@dataclass(frozen=True)
class RolloutSettings:
    """The rings in which a rollout upgrades tenants; `share` in percent, `soak` in minutes."""

    canary: Annotated[str, text("a tag", r"[a-z0-9][a-z0-9.-]{0,29}")]
    share: Annotated[int, whole(1, 100)]
    soak: Annotated[int, whole(0, 10_080)]
    stop_after: Annotated[int, whole(1, 1000)]


@dataclass(frozen=True)
class RollbackSettings:
    """What a rollback carries back; `carried`: percent of all contacts above which the number counts as a fault."""

    carried: Percent


@dataclass(frozen=True)
class DigestSettings:
    hour: Annotated[int, whole(0, 23)]


@dataclass(frozen=True)
class PictureSettings:
    chromium: File


@dataclass(frozen=True)
class Role:
    """Who has a role: Slack user ids, and user groups by id or handle; `everyone`: every full member."""

    users: Annotated[
        list[str],
        forms.names(
            "a list of Slack user ids, such as `U0123456789` (Slack shows it in a person's profile)",
            r"(<@)?(?P<name>[UW][A-Z0-9]{2,20})(\|[^<>]*)?>?",
        ),
    ]
    groups: Annotated[
        list[str],
        forms.names(
            "a list of user groups by handle or id, such as `mautic-approvers` or `S0123456789`",
            r"(<!subteam\^|@)?(?P<name>S[A-Z0-9]{2,20}|[^\s@<>#|^A-Z]{1,80})(\|[^<>]*)?>?",
        ),
    ]
    everyone: Annotated[bool, forms.flag()]


Roles = Annotated[list[str], forms.names("a list of names of roles, such as `approver`", r"(?P<name>[\w.-]{1,63})")]


@dataclass(frozen=True)
class Policy:
    """Who may ask, who may approve, how many approvals, hours until expiry, and the step-up of the approver.

    With 0 approvals an operation is done as soon as it is requested.
    """

    ask: Roles
    approve: Roles
    approvals: Annotated[int, whole(0, 10)]
    hours: Annotated[float, number(0.1, 8760)]
    step_up: Annotated[Literal["", "typed-name"], one_of("", "typed-name")]


@dataclass(frozen=True)
class Settings:
    bot: BotSettings
    slack: SlackSettings
    lxd: LxdSettings
    servers: Mapping[str, ServerSettings]
    edge: EdgeSettings
    blueprint: BlueprintSettings
    releases: Mapping[str, ReleaseSettings]
    advisories: AdvisorySettings
    retention: RetentionSettings
    snapshots: SnapshotSettings
    health: HealthSettings
    jobs: JobSettings
    capacity: CapacitySettings
    batches: BatchSettings
    upgrades: UpgradeSettings
    rollouts: RolloutSettings
    rollback: RollbackSettings
    digest: DigestSettings
    pictures: PictureSettings
    roles: Mapping[str, Role]
    policies: Mapping[str, Policy]
    plans: Mapping[str, PlanSize]

    def responders(self, command: str) -> list[str]:
        """Return the roles that are called when an operation needs a person, without those that everyone has."""
        policy = self.policy(command)
        return [role for role in dict.fromkeys([*policy.ask, *policy.approve]) if not self.roles[role].everyone]

    def policy(self, command: str, *, batch: bool = False) -> Policy:
        """Return the policy of a command, or the default one; a `batch` may need more approvals.

        A command that is a batch of another command follows the policy of that command; a policy of its own can only
        be stricter.
        """
        child, own = BATCHES_OF.get(command, ""), self.policies.get(command)
        policy = own or self.policies.get(child) or self.policies["default"]
        if own and child:
            policy = stricter(own, self.policy(child))
        if not batch or command in ON_COPIES:
            return policy
        return replace(policy, approvals=max(policy.approvals, self.batches.approvals))

    def snapshots_allowed(self, plan: str) -> int:
        """Return the bytes that the snapshots of a tenant of a plan may hold beside its data; 0: there is no limit."""
        return forms.lxd_bytes(self.plans[plan].disk) * self.snapshots.limit // 100 if plan in self.plans else 0

    @property
    def state(self) -> Path:
        """The folder for the bot's own files."""
        return Path(self.bot.state)


def stricter(one: Policy, other: Policy) -> Policy:
    """Return a policy that forbids whatever either of two policies forbids."""
    return replace(
        one,
        ask=[role for role in one.ask if role in other.ask],
        approve=[role for role in one.approve if role in other.approve],
        approvals=max(one.approvals, other.approvals),
        hours=min(one.hours, other.hours),
        step_up=one.step_up or other.step_up,
    )


BATCHES_OF = {"rollout": "upgrade"}
"""Commands that are a batch of another command, with that command."""
ON_COPIES = frozenset({"rehearse"})
"""Commands that change only copies, so that a batch needs no more approvals than a single one."""
RENAMED = {"retention.former_days": "retired_days"}
"""Names of settings in earlier releases, with today's key: files that use an old name keep working."""
OPEN_TABLES = frozenset({"servers", "releases", "roles", "policies", "plans"})
"""Tables that accept new entries; in all other tables, a key that `default.toml` lacks is an error."""


def load(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings: default.toml ← `file` (or MAUTIC_OPS_CONFIG, or ./mautic-ops.toml) ← the environment.

    Raises InvalidSettings.
    """
    merged = tomllib.loads(DEFAULTS.read_text())
    sources: dict[str, str] = {}
    named = environment.get(PREFIX + "CONFIG")
    path = file or (Path(named) if named else Path("mautic-ops.toml"))
    if named or file or path.exists():
        try:
            own = tomllib.loads(path.read_text())
        except OSError as error:
            raise InvalidSettings(f"The configuration {path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"The configuration {path} is not valid TOML: {error}.") from error
        _lay_over(merged, own, str(path), sources)
    for name, value in environment.items():
        if name.startswith(PREFIX) and "__" in name:
            table, _, key = name.removeprefix(PREFIX).lower().partition("__")
            key = RENAMED.get(f"{table}.{key}", key)
            if table in OPEN_TABLES:
                raise InvalidSettings(f"{name}: [{table}] is set in a file only.")
            form = FORMS.get(f"{table}.{key}")
            _lay_over(merged, {table: {key: form.parse(value) if form else value}}, name, sources)
    if type(merged["slack"]) is dict:
        tokens = ("bot_token", "app_token", "signing_secret")
        merged["slack"] |= {name: environment.get(f"SLACK_{name.upper()}", "") for name in tokens}
    try:
        settings: Settings = forms.read(Settings, merged, sources)
    except forms.WrongForm as error:
        raise InvalidSettings(str(error)) from error
    _agree(settings)
    return settings


def _lay_over(base: dict[str, Any], own: dict[str, Any], source: str, sources: dict[str, str], place: str = "") -> None:
    for named, value in own.items():
        key = RENAMED.get(f"{place}.{named}", named)
        if key != named and key in own:
            raise InvalidSettings(f"{source}: {place}.{named} is called {key} now, and both are set; remove {named}.")
        where = f"{place}.{key}" if place else key
        if key not in base:
            if place not in OPEN_TABLES:
                raise InvalidSettings(f"{source}: there is no setting {where!r}; bot/default.toml lists them all.")
            base[key] = value
        elif isinstance(base[key], dict) and isinstance(value, dict):
            _lay_over(base[key], value, source, sources, where)
            continue
        else:
            base[key] = value
        sources[where] = source


def _agree(settings: Settings) -> None:
    """Raise InvalidSettings for settings that are valid each, but do not go together."""
    for name, policy in settings.policies.items():
        unknown = sorted({*policy.ask, *policy.approve} - set(settings.roles))
        if unknown:
            raise InvalidSettings(f"policies.{name} names the role {unknown[0]!r}, which [roles] does not have.")
        # An empty `ask` switches a command off.
        if policy.ask and policy.approvals and not policy.approve:
            raise InvalidSettings(
                f"policies.{name}.approve names no role, so nobody could ever approve; an empty `ask` switches it off."
            )
    for name, child in BATCHES_OF.items():
        both = settings.policy(name)
        own = settings.policies.get(name)
        if own and own.ask and settings.policy(child).ask and not (both.ask and (both.approve or not both.approvals)):
            raise InvalidSettings(
                f"policies.{name} and policies.{child} have no role in common, so nobody could ever request or approve "
                f"a {name}, which is {child}s."
            )
    for name, size in settings.plans.items():
        if forms.mariadb_bytes(size.innodb_buffer_pool) >= forms.lxd_bytes(size.memory):
            raise InvalidSettings(
                f"plans.{name}.innodb_buffer_pool is {size.innodb_buffer_pool}; it has to be less than the plan's "
                f"memory, {size.memory}."
            )
    if settings.lxd.name in settings.servers:
        raise InvalidSettings(f"servers.{settings.lxd.name} has the name of the server of [lxd]; give it another.")
    servers: Mapping[str, LxdSettings | ServerSettings] = {
        "lxd": settings.lxd,
        **{f"servers.{name}": one for name, one in settings.servers.items()},
    }
    for name, server in servers.items():
        if bool(server.certificate) != bool(server.key):
            raise InvalidSettings(f"{name}.certificate and {name}.key go together; one of them is missing.")
    if settings.edge.http_port == settings.edge.https_port:
        raise InvalidSettings("edge.http_port and edge.https_port are the same; each needs a port of its own.")
    if settings.blueprint.archive and not settings.blueprint.sha256:
        raise InvalidSettings(
            "blueprint.archive is set, and blueprint.sha256 is not; an archive is taken only with it."
        )
    for version in settings.releases:
        if version_number(version) is None:
            raise InvalidSettings(f'releases."{version}" is no version of Mautic, such as [releases."6.0.10"].')
    if bool(settings.advisories.extra) != bool(settings.advisories.sha256):
        raise InvalidSettings("advisories.extra and advisories.sha256 go together; one of them is missing.")


FORMS: Mapping[str, Form] = {
    f"{table.name}.{key}": form
    for table in fields(Settings)
    if table.name not in OPEN_TABLES
    for key, shape in forms.hints_of(forms.hints_of(Settings)[table.name]).items()
    if (form := form_of(shape))
}
"""The form of each key, such as `bot.workers`, of the tables that accept no new entries."""
