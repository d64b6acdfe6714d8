"""Tenants, their names, domains and plans. Pure: no input or output."""

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

    A DNS label (RFC 1035, letters first as LXD asks) of at most 40 characters, so that names derived
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
    """Return what the container is called that an operation makes to take a tenant's place."""
    return f"{tenant}--{operation}"


def domain_name(text: str) -> str:
    """Return a fully qualified domain as DNS has it (`müller.de` → `xn--mller-kva.de`), or raise InvalidName."""
    try:
        return ascii_domain(text)
    except ValueError:
        raise InvalidName(
            f"“{text.strip()[:80]}” is not a domain. Leave out https://, and write for example `m.client.com`."
        ) from None


@dataclass(frozen=True)
class PlanSize:
    """What a plan gives a tenant. Memory and disk as LXD sizes (`4GiB`), MariaDB's pool as its own (`768M`)."""

    cpu: Annotated[int, whole(1, 512)]
    memory: Annotated[str, lxd_size(256 << 20)]
    disk: Annotated[str, lxd_size(1 << 30)]
    processes: Annotated[int, whole(50, 1_000_000)]
    innodb_buffer_pool: Annotated[str, mariadb_size()]
    fpm_children: Annotated[int, whole(1, 10_000)]
    email_workers: Annotated[int, whole(1, 100)]

    def limits(self) -> dict[str, str]:
        """Return the LXD configuration keys of the limits (the disk's is on the root device)."""
        return {
            "limits.cpu": str(self.cpu),
            "limits.memory": self.memory,
            "limits.processes": str(self.processes),
        }


@dataclass(frozen=True)
class Tenant:
    """One client's Mautic, as its instance tells. `created`, `archived`, `retired`, `kept_until` and
    `started` (its container's last start) are epoch seconds, 0: never.

    `server` is the LXD server's name in the settings; `member` that of the cluster, if it is one; `host` is the one or
    the other. `state`: only a `live` one is open to the outside. `stopped`: on purpose, so that nothing starts it.
    `replaced_by`: the command, and `replaced_in` the operation, by which another took its place; 0: unknown.
    `closed_by`: the operation that suspended or stopped it, 0: unknown. `boot`: the priority and delay of its start
    after a reboot, or "". `outbound_off`: it sends no mail until somebody decides on what waits. `disk`: the size of
    its own disk, as LXD limits it. `address`: what it was given on the bridge. `tags`: words that people choose it by.
    `cutover`: the command that made it to take the place of another, or "". `furniture`: the version of what the bot
    put into it. `slot`: when its heavy jobs begin, as `bot.model.slots.slot_of`; None: with everybody's. `recipe` and
    `archive`: the sha256 of what its blueprint was made by and of; `suite`: the release of Debian; `base`: when its
    packages were installed, 0: not known. Of a blueprint `on_demand`: an operation needed it.
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
        """Why a former one is one, for people; "" where it is none."""
        return f"{self.replaced_by} {self.replaced_in or ''}".strip()

    @property
    def running(self) -> bool:
        """Whether LXD says `Running`."""
        return self.status == "Running"

    @property
    def made_by(self) -> int:
        """The operation that made it, or decided last what it is; 0: unknown."""
        return number_of(self.operation)

    @property
    def standing(self) -> str:
        """How it stands, in one word."""
        if self.role == Role.ARCHIVED:
            return "archived"
        return self.status.lower() if self.state in (State.NONE, State.LIVE) else self.state
