"""Tenants: their facts, and the rules for names, tags, domains and plans. Pure: no input or output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from bot.model.forms import ascii_domain, lxd_size, mariadb_size, whole
from bot.model.labels import Role, State, number_of

RESERVED = frozenset(
    [
        "admin",
        "api",
        "app",
        "archive",
        "assets",
        "autodiscover",
        "blueprint",
        "cdn",
        "client",
        "console",
        "default",
        "edge",
        "ftp",
        "help",
        "host",
        "imap",
        "internal",
        "localhost",
        "lxd",
        "mail",
        "mautic",
        "mx",
        "new",
        "none",
        "ns",
        "ns1",
        "ns2",
        "ops",
        "pop",
        "proxy",
        "root",
        "smtp",
        "status",
        "support",
        "system",
        "tenant",
        "test-edge",
        "webmail",
        "www",
    ]
)
_TAG = re.compile(r"[a-z0-9][a-z0-9.-]{0,29}\Z")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")


class InvalidName(ValueError):
    """A name or domain that cannot be used; the text says why, for a person."""


def tenant_name(text: str) -> str:
    """Return the name of a tenant in its normal form, or raise InvalidName with the reason.

    A name is a DNS label (RFC 1035, a letter first, as LXD demands) of at most 40 characters, so that names derived
    from it (an archive's suffix, a host name) still fit LXD's 63.
    """
    name = text.strip().lower()
    shown = name[:60]
    if not name:
        raise InvalidName("A tenant needs a name, such as `client-x`.")
    if len(name) > 40:
        raise InvalidName(f"“{shown}…” is too long: {len(name)} characters, at most 40.")
    if not _LABEL.match(name):
        near = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
        hint = f" Did you mean `{near}`?" if near[:1].isalpha() and near not in RESERVED else ""
        raise InvalidName(
            f"“{shown}” can't be a tenant name. Use lower-case letters, digits and hyphens, with no hyphen at the "
            f"start or end.{hint}"
        )
    if not name[0].isalpha():
        raise InvalidName(f"“{shown}” can't be a tenant name. The name has to start with a letter.")
    if "--" in name:
        raise InvalidName(
            f"“{shown}” can't be a tenant name. Two hyphens in a row are reserved for the bot's own names."
        )
    if name in RESERVED:
        raise InvalidName(f"“{shown}” is reserved. Choose another name, such as `{name}-shop`.")
    return name


def tag_name(text: str) -> str:
    """Return a tag in its normal form, or raise InvalidName."""
    tag = text.strip().strip(",").lower()
    if not _TAG.match(tag):
        raise InvalidName(
            f"“{text.strip()[:40]}” can't be a tag. Use at most 30 lower-case letters, digits, hyphens and dots."
        )
    return tag


def candidate_name(tenant: str, operation: int) -> str:
    """Return the name of the container that an operation creates to replace a tenant's container."""
    return f"{tenant}--{operation}"


def domain_name(text: str) -> str:
    """Return a fully qualified domain as in DNS (`müller.de` → `xn--mller-kva.de`), or raise InvalidName."""
    try:
        return ascii_domain(text)
    except ValueError:
        raise InvalidName(
            f"“{text.strip()[:80]}” is not a domain. Leave out https://, and write for example `m.client.com`."
        ) from None


@dataclass(frozen=True)
class PlanSize:
    """The resources of a plan. Memory and disk are LXD sizes (`4GiB`), `innodb_buffer_pool` a MariaDB size (`768M`)."""

    cpu: Annotated[int, whole(1, 512)]
    memory: Annotated[str, lxd_size(256 << 20)]
    disk: Annotated[str, lxd_size(1 << 30)]
    processes: Annotated[int, whole(50, 1_000_000)]
    innodb_buffer_pool: Annotated[str, mariadb_size()]
    fpm_children: Annotated[int, whole(1, 10_000)]
    email_workers: Annotated[int, whole(1, 100)]

    def limits(self) -> dict[str, str]:
        """Return the limits as LXD configuration keys (the limit of the disk is on the root device)."""
        return {
            "limits.cpu": str(self.cpu),
            "limits.memory": self.memory,
            "limits.processes": str(self.processes),
        }


@dataclass(frozen=True)
class Tenant:
    """One client's Mautic, or another container of the bot, as its instance describes it.

    `created`, `archived`, `retired`, `kept_until` and `started` (the container's last start) are epoch seconds, 0:
    never. `server`: the LXD server's name in the settings; `member`: the name of the cluster member, "" without a
    cluster; `host`: the member, or else the server. `state`: only a `live` tenant is open to the outside. `stopped`:
    stopped on purpose, so that nothing starts it. `replaced_by` and `replaced_in`: the command and the operation that
    replaced the container, 0: unknown. `closed_by`: the operation that suspended or stopped it, 0: unknown. `boot`:
    priority and delay of its start after a reboot, or "". `outbound_off`: it sends no mail until somebody decides on
    the waiting mail. `disk`: the limit of its own disk in LXD. `address`: its address on the bridge. `tags`: words to
    select it by. `cutover`: the command whose cutover created it, or "". `furniture`: the version of its furniture.
    `slot`: when its heavy jobs begin, as in `bot.model.slots.slot_of`; None: at the same time as all others without a
    slot. `recipe` and `archive`: the sha256 of the recipe and of the release that its blueprint was built from;
    `suite`: the Debian release; `base`: when its packages were installed, 0: unknown. `on_demand`: it is a blueprint
    that an operation needed.
    """

    name: str
    server: str
    host: str
    instance: str
    status: str
    domain: str
    plan: str
    version: str
    role: Role
    state: State = State.NONE
    stopped: bool = False
    note: str = ""
    replaced_by: str = ""
    replaced_in: int = 0
    operation: str = ""
    created: int = 0
    archived: int = 0
    kept_until: int = 0
    retired: int = 0
    double: bool = False
    member: str = ""
    started: int = 0
    closed_by: int = 0
    boot: tuple[str, str] = ("", "")
    disk: str = ""
    outbound_off: bool = False
    address: str = ""
    tags: tuple[str, ...] = ()
    cutover: str = ""
    furniture: int = 1
    slot: int | None = None
    recipe: str = ""
    archive: str = ""
    on_demand: bool = False
    suite: str = ""
    base: int = 0

    @property
    def reason(self) -> str:
        """The command and operation that retired the container, for people; "" where it is not retired."""
        return f"{self.replaced_by} {self.replaced_in or ''}".strip()

    @property
    def running(self) -> bool:
        """Whether LXD says `Running`."""
        return self.status == "Running"

    def is_about(self, at: float, now: float) -> bool:
        """Whether what was recorded at `at` is about this tenant, and not about an earlier one of its name.

        If a clock that was ahead dated its creation in the future, nobody knows, and everything counts as its own.
        """
        return at >= self.created or self.created > now

    @property
    def made_by(self) -> int:
        """The operation that created the container or changed its role last; 0: unknown."""
        return number_of(self.operation)

    @property
    def standing(self) -> str:
        """The state of the container, in one word."""
        if self.role == Role.ARCHIVED:
            return "archived"
        return self.status.lower() if self.state in (State.NONE, State.LIVE) else self.state
