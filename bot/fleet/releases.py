"""Reads the Mautic releases that the settings name, and builds the blueprint of a release when one is needed.

The metadata of a release is stored beside its download, by the checksum of its archive, so that only the job `releases`
and a build ever read an archive.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bot.fleet.inventory import Fleet, Host
from bot.guest.blueprint.archive import ArchiveError, open_archive, read_release
from bot.guest.blueprint.base import BaseError
from bot.guest.blueprint.build import build, remove_unfinished
from bot.guest.blueprint.recipe import FIRST_SUITE, recipe_digest, suite_named, suite_of, suites_since
from bot.guest.blueprint.simulated import put_blueprint
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.model.releases import Release, find, newest_first, number
from bot.model.tenants import Tenant
from bot.settings import Settings

LONGEST = 3600
"""Seconds after which no build is still under way."""


@dataclass(frozen=True)
class Source:
    """Where a release comes from: the setting's name (`key`), and the version in it, "" where it names none."""

    key: str
    version: str
    archive: str
    sha256: str


def sources(settings: Settings) -> tuple[Source, ...]:
    """Return the releases that the settings name: that of `[blueprint]`, then those of `[releases]`, newest first."""
    first = settings.blueprint
    found = [Source("blueprint", "", first.archive, first.sha256)] if first.archive else []
    for version in newest_first(settings.releases):
        one = settings.releases[version]
        found.append(Source(f'releases."{version}"', version, one.archive, one.sha256))
    return tuple(found)


def known(settings: Settings) -> dict[Source, Release | None]:
    """Return the stored metadata of each release.

    None where its archive was not read yet, or is of another version than the settings say.
    """
    told = {source: _kept(settings, source) for source in sources(settings)}
    return {
        source: one if one and (not source.version or _alike(source.version, one.version)) else None
        for source, one in told.items()
    }


def releases(settings: Settings) -> tuple[Release, ...]:
    """Return the releases whose archives were read, each version once."""
    found = {one.version: one for one in reversed(known(settings).values()) if one}
    return tuple(found[version] for version in newest_first(found))


def keep(settings: Settings) -> list[str]:
    """Read and store the metadata of each release where it is missing; return what is wrong with any, as sentences.

    An archive at a URL is downloaded for that, and stays in the cache.
    """
    wrong = []
    for source in sources(settings):
        try:
            _keep(settings, source)
        except ArchiveError as error:
            wrong.append(f"`{source.key}`: {error}")
    return wrong


def ensure_blueprint(
    fleet: Fleet,
    settings: Settings,
    version: str,
    progress: Callable[[str], None],
    *,
    current: bool = False,
    newer: float = 0.0,
    since: str = "",
) -> Tenant:
    """Return the newest blueprint of a version, on the host that built it; where there is none, build it in minutes.

    Safe to repeat and to run concurrently: one blueprint is built at a time, a second caller finds the first one's, and
    the next build removes what a killed build left. Raises Refused, or LxdError.

    Args:
        version: of a release in the settings, or of an existing blueprint.
        progress: is called with each stage, in a few words.
        current: accept only a blueprint by the current recipe, of the archive that the settings name.
        newer: accept only a blueprint whose Debian packages were installed at this moment (epoch seconds) or later.
        since: accept only a blueprint of this Debian suite or a newer one: the suite of the tenant that it is for.
    """
    source = _source(settings, version)
    if found := _standing(fleet, version, source if current else None, current, newer, since):
        return found
    if source is None:
        names = ", ".join(f"`{one.version}`" for one in releases(settings)) or "none"
        raise Refused(f"There is no release {version[:40]} in the settings; known: {names}.")
    host = _builder(fleet, settings)
    cache = settings.state / "cache"
    try:
        archive = open_archive(source.archive, source.sha256, cache)
        _must_be(source, archive.version)
        if suite_named(since) != FIRST_SUITE:
            release = known(settings)[source]
            archive = replace(archive, suite=(suite_of(release, since) if release else None) or archive.suite)
        if settings.lxd.simulated:
            put_blueprint(
                host.lxd,
                archive.version,
                created=max(int(time.time()), math.ceil(newer)),
                archive=archive.sha256,
                on_demand=True,
                suite=archive.suite,
                name=f"blueprint--{archive.sha256[:6]}-{math.ceil(newer)}" if newer else "",
            )
        else:
            build(
                host.lxd,
                archive,
                base=settings.blueprint.base,
                cache=cache,
                progress=progress,
                every=settings.jobs.unconditional,
                on_demand=True,
                newer=newer,
            )
    except (ArchiveError, BaseError) as error:
        raise Refused(str(error)) from error
    made = _standing(fleet, archive.version, source if current else None, current, newer, since)
    if made is None:
        raise LxdError(f"The blueprint of Mautic {archive.version} is gone as soon as it was built.")
    return made


def clear(fleet: Fleet, settings: Settings, now: float) -> list[str]:
    """Remove what killed builds left on every server that answers; return the names of the removed containers."""
    found = []
    for lxd in fleet.servers.values():
        # The health check reports a silent server. What is left there is removed another time.
        with suppress(LxdUnavailable):
            found += remove_unfinished(lxd, settings.state / "cache", now - LONGEST)
    return found


def _source(settings: Settings, version: str) -> Source | None:
    """Return the source of a version: that of exactly this version, or else one with the same number."""
    told = known(settings)
    if one := find([one for one in told.values() if one], version):
        return next(source for source, release in told.items() if release == one)
    wanted = number(version)
    return next((one for one in told if wanted and number(one.version) == wanted), None)


def _standing(
    fleet: Fleet, version: str, source: Source | None, current: bool, newer: float = 0.0, since: str = ""
) -> Tenant | None:
    """Return the newest acceptable blueprint of a version; raise LxdUnavailable where a silent server may have it."""
    seen = fleet.inventory(Role.BLUEPRINT)
    named = [one.version for one in seen.tenants]
    wanted = version if version in named else next((one for one in named if _alike(one, version)), version)
    fits: Sequence[Tenant] = [
        one
        for one in seen.tenants
        if one.version == wanted
        and (not current or one.recipe == recipe_digest(suite_named(one.suite)))
        and one.base >= newer
        and suite_named(one.suite) in suites_since(since)
        and (source is None or one.archive == source.sha256)
    ]
    if not fits:
        fleet.require_all_answered(seen)
        return None
    # A copy on another host has the same age, and the number of the operation that copied it.
    return max(fits, key=lambda one: (one.created, not one.operation))


def _alike(one: str, other: str) -> bool:
    return number(one) is not None and number(one) == number(other)


def _builder(fleet: Fleet, settings: Settings) -> Host:
    """Return the host to build blueprints on: the one that built the newest, or else the first host of `[lxd]`."""
    built = [one for one in fleet.all(Role.BLUEPRINT) if not one.operation]
    if built:
        return fleet.of(max(built, key=lambda one: one.created))
    return next(one for one in fleet.hosts() if one.server == settings.lxd.name)


def _keep(settings: Settings, source: Source) -> None:
    if kept := _kept(settings, source):
        if "://" not in source.archive and not Path(source.archive).expanduser().is_file():
            raise ArchiveError(f"There is no archive at {source.archive}.")
        _must_be(source, kept.version)
        return
    _, found = read_release(source.archive, source.sha256, settings.state / "cache")
    _must_be(source, found.version)
    path = _file(settings, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(found))
    part.rename(path)


def _must_be(source: Source, version: str) -> None:
    if source.version and not _alike(source.version, version):
        raise ArchiveError(f"The archive is Mautic {version}, not {source.version}.")


def _kept(settings: Settings, source: Source) -> Release | None:
    try:
        return msgspec.json.decode(_file(settings, source).read_bytes(), type=Release)
    except (OSError, msgspec.DecodeError):
        return None


def _file(settings: Settings, source: Source) -> Path:
    return settings.state / "cache" / "releases" / f"{source.sha256}.json"
