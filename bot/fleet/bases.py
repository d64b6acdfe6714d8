"""Tells how old the Debian packages of tenants are, and which security updates they lack, from their blueprints.

A tenant has the packages of the blueprint that it was cloned from: nothing installs packages in a tenant. So the bot
stores the packages of each blueprint, and the contents of Debian's security archive on the day of its build, beside the
releases, and keeps them when the blueprint is gone. A tenant lacks the updates that the newest stored archive has. No
request goes to a tenant or a mirror.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from bot.fleet.inventory import Fleet
from bot.guest.blueprint.base import SECURITY_FILE
from bot.guest.blueprint.build import PACKAGES
from bot.guest.blueprint.recipe import FIRST_SUITE
from bot.lxd.protocol import LxdError
from bot.model.debian import lacking, packages
from bot.model.labels import Role
from bot.model.tenants import Tenant
from bot.settings import Settings


class Kept(msgspec.Struct, frozen=True):
    """The packages of one base, name to version, and those of Debian's security archive at the time of its build."""

    packages: dict[str, str]
    security: dict[str, str]


@dataclass(frozen=True)
class Stand:
    """The Debian base that a tenant runs on.

    `at`: when its packages were installed (epoch seconds), 0: unknown. `lacks`: its packages for which it lacks a
    security update, None: unknown. `newest`: the day (epoch seconds) of the security archive that was compared with.
    """

    suite: str
    at: int
    lacks: tuple[str, ...] | None
    newest: int = 0


def keep(fleet: Fleet, settings: Settings) -> None:
    """Store the packages of blueprints, once for each base. One that cannot be read now is left for another time."""
    for blueprint in fleet.inventory(Role.BLUEPRINT).tenants:
        path = _file(settings, _suite(blueprint), blueprint.base)
        if not blueprint.base or path.exists():
            continue
        lxd = fleet.of(blueprint).lxd
        with suppress(LxdError):
            installed = dict(packages(lxd.pull(blueprint.instance, PACKAGES).decode(errors="replace")))
            # A custom image, or one from an earlier bot, has no security file, and then nothing is stored.
            told = lxd.pull(blueprint.instance, f"/{SECURITY_FILE}").decode(errors="replace")
            known = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(Kept(installed, known)))
            part.rename(path)


def stands(settings: Settings, tenants: Iterable[Tenant]) -> dict[str, Stand]:
    """Return the base that each tenant runs on, by instance, without a request."""
    found: dict[tuple[str, int], Stand] = {}
    told = {}
    for one in tenants:
        base = (_suite(one), one.base)
        if base not in found:
            kept = _kept(_file(settings, *base)) if one.base else None
            found[base] = stand(settings, *base, kept.packages if kept else None)
        told[one.instance] = found[base]
    return told


def stand(settings: Settings, suite: str, at: int, installed: Mapping[str, str] | None) -> Stand:
    """Return the state of a base, from its `installed` packages; None: they are unknown."""
    known = sorted(settings.state.glob(f"cache/bases/{suite}-*.json"), key=_moment)
    newest = _kept(known[-1]) if known else None
    if installed is None or newest is None:
        return Stand(suite, at, None)
    return Stand(suite, at, tuple(lacking(installed, newest.security)), _moment(known[-1]))


def _suite(one: Tenant) -> str:
    return one.suite or FIRST_SUITE.name


def _file(settings: Settings, suite: str, base: int) -> Path:
    return settings.state / "cache" / "bases" / f"{suite}-{base}.json"


def _moment(path: Path) -> int:
    moment = path.stem.rpartition("-")[2]
    return int(moment) if moment.isdecimal() else 0


def _kept(path: Path) -> Kept | None:
    try:
        return _read(path)
    except (OSError, msgspec.DecodeError):
        return None


@lru_cache(maxsize=100)
def _read(path: Path) -> Kept:
    """Read what was stored of a base, which never changes."""
    return msgspec.json.decode(path.read_bytes(), type=Kept)
