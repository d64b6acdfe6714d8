"""The answers to what an upgrade asks of a tenant: see `bot.guest.answers`. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bot.guest.untrusted import Code, Figure, Moment, Seconds, Untrusted

CACHE = 64 << 20
"""Bytes of the answer that holds a packed cache."""
Buffer = bytes
"""What comes as base64; a field may be called `bytes`."""


class Own(Untrusted):
    """What of a tree is the client's own; `changed` is not carried over. `known`: a release's files are."""

    plugins: list[str]
    themes: list[str]
    translations: list[str]
    overlay: list[str]
    changed: list[str]
    known: bool


class Swapped(Untrusted):
    """Which version serves, and which did before."""

    version: str
    before: str
    seconds: Seconds


class Staged(Swapped):
    """Which version is staged beside the one that serves (`before`), with what is the client's own."""

    own: Own


class Packed(Untrusted):
    """A compiled cache, packed; `bytes` of it."""

    bytes: Figure
    tar: Annotated[Buffer, Meta(max_length=CACHE)]


class Recorded(Untrusted):
    """How many migrations were recorded as done."""

    recorded: Figure


class Migrated(Untrusted):
    """How migrations ended: `ran` and `skipped` are their digits, `output` is what Mautic said."""

    done: bool
    code: Code
    ran: list[str]
    skipped: list[str]
    unregistered: Figure
    rows: dict[str, Figure]
    seconds: Seconds
    output: str


class UpToDate(Untrusted):
    """Whether all migrations are recorded, and Mautic's own exit code to that."""

    up_to_date: bool
    code: Code
    new: list[str]
    unregistered: Figure


class Asset(Untrusted):
    """One answer of a page, or of what it links to; status 0: there was none."""

    status: Annotated[int, Meta(ge=0, le=999)]
    bytes: Figure
    seconds: Seconds


class Assets(Untrusted):
    """The login page and what it links to, by path."""

    assets: dict[str, Asset]


class Upgraded(Untrusted):
    """How an upgrade went, in seconds by phase; what comes after a migration that failed is not there.

    `had`, `has`: rows by table, before and after the migrations, of those that were counted.
    """

    version: str
    phases: dict[str, Seconds]
    carried: bool
    migrated: Migrated
    up_to_date: bool | UnsetType = UNSET
    assets: dict[str, Asset] | UnsetType = UNSET
    had: dict[str, Figure] = msgspec.field(default_factory=dict)
    has: dict[str, Figure] = msgspec.field(default_factory=dict)


class Plugin(Untrusted):
    """A plugin of the client's own, and whether Mautic loads it."""

    version: str
    loads: bool


class Evidence(Untrusted):
    """What a tenant is made of. `whole`: no line of its schema was left out; `uncounted`: tables that take too long."""

    version: str
    php: str
    mariadb: str
    schema: list[str]
    whole: bool
    counts: dict[str, Figure]
    uncounted: list[str]
    migrations: Figure
    plugins: dict[str, Plugin]
    own: Own
    errors: dict[str, Figure]


class Sent(Untrusted):
    """What of its own a tenant has sent."""

    files: Figure
    bytes: Figure
    seconds: Seconds


class Taking(Untrusted):
    """The word of the last time that all was taken, "" for none."""

    known: str


class Took(Untrusted):
    """What of a tenant's own was taken."""

    files: Figure
    bytes: Figure


class Adopted(Untrusted):
    """Of which version a clone of a blueprint became a tenant, on which MariaDB, and whether its cache holds."""

    version: str
    mariadb: str
    cached: bool
    seconds: Seconds


class BaseTold(Untrusted):
    """Which packages of Debian are installed, and since when none was any more."""

    since: Moment
    packages: dict[str, str]
