"""Settings: the shipped `default.toml`, laid over by a file and by the environment. Frozen."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from bot.tenants import PlanSize

DEFAULTS = Path(__file__).with_name("default.toml")
PREFIX = "MAUTIC_OPS_"
Count = Annotated[int, msgspec.Meta(ge=0)]


class InvalidSettings(Exception):
    """The configuration cannot be used; the text says which key and why."""


@dataclass(frozen=True)
class BotSettings:
    state: str
    base_domain: str
    timezone: str
    workers: int


@dataclass(frozen=True)
class SlackSettings:
    api: str
    channel: str
    http_port: int
    # From the environment alone, and never shown.
    bot_token: str = field(default="", repr=False)
    app_token: str = field(default="", repr=False)
    signing_secret: str = field(default="", repr=False)

    def check_tokens(self) -> None:
        """Raise InvalidSettings when something is missing that a bot needs to speak with Slack, or to believe it."""
        if not self.bot_token:
            raise InvalidSettings("SLACK_BOT_TOKEN is not set; `make up` without tokens starts the local workspace.")
        if self.http_port and not self.signing_secret:
            raise InvalidSettings("SLACK_SIGNING_SECRET is not set; slack.http_port needs it.")
        if not self.http_port and not self.app_token:
            raise InvalidSettings("SLACK_APP_TOKEN is not set; Socket Mode needs it.")


@dataclass(frozen=True)
class LxdSettings:
    endpoint: str
    name: str
    certificate: str
    key: str
    server_certificate: str
    project: str
    pool: str
    pool_driver: str
    pool_size: str
    network: str
    subnet: str
    profile: str

    @property
    def simulated(self) -> bool:
        """Whether there is no LXD and every message says so."""
        return self.endpoint == "simulated"


@dataclass(frozen=True)
class ServerSettings:
    """One more LXD server; project, pool, network, subnet and profile are those of `[lxd]`."""

    endpoint: str
    listen: str = ""
    certificate: str = ""
    key: str = ""
    server_certificate: str = ""


@dataclass(frozen=True)
class EdgeSettings:
    tls: Literal["internal", "automatic"]
    email: str
    listen: str
    http_port: int
    https_port: int

    def url(self, domain: str) -> str:
        """Return the public address of a domain behind the edge."""
        return f"https://{domain}" + ("" if self.https_port == 443 else f":{self.https_port}")


@dataclass(frozen=True)
class BlueprintSettings:
    archive: str
    sha256: str
    base: str


@dataclass(frozen=True)
class SnapshotSettings:
    """How many of each tier are kept of a tenant's snapshots."""

    hourly: Count
    daily: Count
    weekly: Count
    monthly: Count

    def __str__(self) -> str:
        tiers = ((self.hourly, "hourly"), (self.daily, "daily"), (self.weekly, "weekly"), (self.monthly, "monthly"))
        return ", ".join(f"{count} {tier}" for count, tier in tiers if count) or "none"


@dataclass(frozen=True)
class RetentionSettings:
    archive_days: int
    former_days: int
    credentials_hours: int


@dataclass(frozen=True)
class HealthSettings:
    memory: int
    disk: int
    pool: int
    queue_minutes: int
    log_errors: int


@dataclass(frozen=True)
class DigestSettings:
    hour: Annotated[int, msgspec.Meta(ge=0, le=23)]


@dataclass(frozen=True)
class Role:
    """Who has a role: Slack user ids, and user groups by id or handle; `everyone`: each full member."""

    users: list[str]
    groups: list[str]
    everyone: bool


@dataclass(frozen=True)
class Policy:
    """Who may ask, who may approve, how many approvals, hours until expiry, and the step-up of the approver.

    With no approvals it is done as soon as it is asked for.
    """

    ask: list[str]
    approve: list[str]
    approvals: int
    hours: float
    step_up: Literal["", "typed-name"]


@dataclass(frozen=True)
class Settings:
    bot: BotSettings
    slack: SlackSettings
    lxd: LxdSettings
    servers: Mapping[str, ServerSettings]
    edge: EdgeSettings
    blueprint: BlueprintSettings
    retention: RetentionSettings
    snapshots: SnapshotSettings
    health: HealthSettings
    digest: DigestSettings
    roles: Mapping[str, Role]
    policies: Mapping[str, Policy]
    plans: Mapping[str, PlanSize]

    def policy(self, command: str) -> Policy:
        """Return the policy of a command, or the default one."""
        return self.policies.get(command) or self.policies["default"]

    @property
    def state(self) -> Path:
        """The folder that the bot keeps its own things in."""
        return Path(self.bot.state)


OPEN_TABLES = frozenset({"servers", "roles", "policies", "plans"})
"""Tables that take new entries; everywhere else a key that the default file lacks is a mistake."""


def load(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings: default.toml ← `file` (or MAUTIC_OPS_CONFIG, or ./mautic-ops.toml) ← the environment."""
    merged = tomllib.loads(DEFAULTS.read_text())
    named = environment.get(PREFIX + "CONFIG")
    path = file or (Path(named) if named else Path("mautic-ops.toml"))
    if named or file or path.exists():
        try:
            own = tomllib.loads(path.read_text())
        except OSError as error:
            raise InvalidSettings(f"The configuration {path} cannot be read: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettings(f"The configuration {path} is not valid TOML: {error}.") from error
        _lay_over(merged, own, str(path))
    for name, value in environment.items():
        if name.startswith(PREFIX) and "__" in name:
            table, _, key = name.removeprefix(PREFIX).lower().partition("__")
            if table in OPEN_TABLES:
                raise InvalidSettings(f"{name}: [{table}] is set in a file only.")
            known = merged.get(table, {}).get(key)
            _lay_over(
                merged,
                {table: {key: int(value) if isinstance(known, int) and value.isdigit() else value}},
                name,
            )
    merged["slack"] |= {
        "bot_token": environment.get("SLACK_BOT_TOKEN", ""),
        "app_token": environment.get("SLACK_APP_TOKEN", ""),
        "signing_secret": environment.get("SLACK_SIGNING_SECRET", ""),
    }
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"The configuration cannot be used: {error}.") from error
    try:
        ZoneInfo(settings.bot.timezone)
    except (KeyError, ValueError, OSError):
        raise InvalidSettings(f"bot.timezone is {settings.bot.timezone!r}, which is no time zone.") from None
    for name, policy in settings.policies.items():
        unknown = sorted({*policy.ask, *policy.approve} - set(settings.roles))
        if unknown:
            raise InvalidSettings(f"policies.{name} names the role {unknown[0]!r}, which [roles] does not have.")
        if policy.approvals < 0:
            raise InvalidSettings(f"policies.{name}.approvals is {policy.approvals}; it is at least 0.")
    if settings.lxd.name in settings.servers:
        raise InvalidSettings(f"servers.{settings.lxd.name} has the name of the server of [lxd]; give it another.")
    return settings


def _lay_over(base: dict[str, Any], own: dict[str, Any], source: str, place: str = "") -> None:
    for key, value in own.items():
        where = f"{place}.{key}" if place else key
        if key not in base:
            if place not in OPEN_TABLES:
                raise InvalidSettings(f"{source}: there is no setting {where!r}; bot/default.toml lists them all.")
            base[key] = value
        elif isinstance(base[key], dict) and isinstance(value, dict):
            _lay_over(base[key], value, source, where)
        else:
            base[key] = value
