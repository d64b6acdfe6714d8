"""How old the Debian packages of tenants are, and which security updates they lack, by what blueprints are made of.

A tenant has the packages of the blueprint that it was cloned from: nothing installs any in it. So what each blueprint
has, and what Debian's security archive had on the day that it was built, is kept beside the releases, also when the
blueprint is gone; and what a tenant lacks is what the newest of these days knew. No tenant is asked, and no mirror.
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
    """The packages of one base by name, with their versions, and those that the security archive had then."""

    packages: dict[str, str]
    security: dict[str, str]


@dataclass(frozen=True)
class Stand:
    """What a tenant runs on.

    `at`: when its packages were installed, 0: not known. `lacks`: those of them that have a security update which it
    does not have, None: not known; `newest`: the day (epoch seconds) that this is told of.
    """

    suite: str
    at: int
    lacks: tuple[str, ...] | None
    newest: int = 0


def keep(fleet: Fleet, settings: Settings) -> None:
    """Keep what blueprints are made of, of each base once. What cannot be read now is another time."""
    for blueprint in fleet.inventory(Role.BLUEPRINT).tenants:
        path = _file(settings, _suite(blueprint), blueprint.base)
        if not blueprint.base or path.exists():
            continue
        lxd = fleet.of(blueprint).lxd
        with suppress(LxdError):
            installed = dict(packages(lxd.pull(blueprint.instance, PACKAGES).decode(errors="replace")))
            # Without it nothing is known of security: an image of somebody's own, or of an earlier bot.
            told = lxd.pull(blueprint.instance, f"/{SECURITY_FILE}").decode(errors="replace")
            known = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(Kept(installed, known)))
            part.rename(path)


def stands(settings: Settings, tenants: Iterable[Tenant]) -> dict[str, Stand]:
    """Return what tenants run on, by instance; nobody is asked."""
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
    """Return how a base stands, by the packages that it has; None: they are not known."""
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
    """Read what was kept of a base, which never changes."""
    return msgspec.json.decode(path.read_bytes(), type=Kept)
