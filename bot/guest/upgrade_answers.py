"""The shapes of a tenant's answers to the verbs of an upgrade: see `bot.guest.answers`. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bot.guest.untrusted import Code, Figure, Moment, Seconds, Untrusted

CACHE = 64 << 20
"""Bytes of the answer that holds a packed cache."""
Buffer = bytes
"""`bytes`, which arrive as base64; an alias, because a field may be called `bytes`."""


class Own(Untrusted):
    """What belongs to the client in a tree of Mautic; `changed` is not carried over.

    `known`: whether it is known which files the release brought.
    """

    plugins: list[str]
    themes: list[str]
    translations: list[str]
    overlay: list[str]
    changed: list[str]
    known: bool


class Swapped(Untrusted):
    """The version that serves, and the one that served before."""

    version: str
    before: str
    seconds: Seconds


class Staged(Swapped):
    """The version that is staged beside the one that serves (`before`), and what belongs to the client."""

    own: Own


class Packed(Untrusted):
    """A packed compiled cache, and its size in bytes."""

    bytes: Figure
    tar: Annotated[Buffer, Meta(max_length=CACHE)]


class Recorded(Untrusted):
    """How many migrations were recorded as done."""

    recorded: Figure


class Migrated(Untrusted):
    """How migrations ended: `ran` and `skipped` are the digits of their names, `output` is what Mautic printed."""

    done: bool
    code: Code
    ran: list[str]
    skipped: list[str]
    unregistered: Figure
    rows: dict[str, Figure]
    seconds: Seconds
    output: str


class UpToDate(Untrusted):
    """Whether all migrations are recorded, and the exit code of Mautic's own check."""

    up_to_date: bool
    code: Code
    new: list[str]
    unregistered: Figure


class Asset(Untrusted):
    """The answer of a page, or of a file that it links; status 0: no answer."""

    status: Annotated[int, Meta(ge=0, le=999)]
    bytes: Figure
    seconds: Seconds


class Assets(Untrusted):
    """The login page and the files that it links, by path."""

    assets: dict[str, Asset]


class Upgraded(Untrusted):
    """How an upgrade went, with the seconds of each phase; after failed migrations, the later facts are missing.

    `had`, `has`: rows of each table that was counted, before and after the migrations.
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
    """What a tenant is made of. `whole`: no line of its schema was left out; `uncounted`: tables too slow to count."""

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
    """How much of its own data a tenant has sent."""

    files: Figure
    bytes: Figure
    seconds: Seconds


class Taking(Untrusted):
    """The word of the last complete transfer, "" if there was none."""

    known: str


class Took(Untrusted):
    """How much of a tenant's own data was taken."""

    files: Figure
    bytes: Figure


class Adopted(Untrusted):
    """What a clone became as a tenant: its versions of Mautic and MariaDB, and whether its compiled cache is valid."""

    version: str
    mariadb: str
    cached: bool
    seconds: Seconds


class BaseAnswer(Untrusted):
    """The installed Debian packages, and when the last one was installed."""

    since: Moment
    packages: dict[str, str]
