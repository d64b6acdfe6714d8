"""Finds the release that a tenant is upgraded to, and decides whether the evidence of its rehearsal still holds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from bot.engine.bases import again_of, earliest_useful_base, newest_of
from bot.engine.context import Context, Run
from bot.engine.rehearsal import drift
from bot.engine.selection import Selection, select
from bot.fleet.inventory import Host
from bot.fleet.releases import known, releases, sources
from bot.guest.blueprint.archive import Archive, ArchiveError, open_archive
from bot.guest.blueprint.recipe import SUITES, suites_since
from bot.model.evidence import Evidence, drifted
from bot.model.plan import Refused, UnknownWords
from bot.model.releases import Release, find, newest_first, number, path, variant
from bot.model.tenants import Tenant

NEVER = math.inf
FRESH = 86_400.0
"""Seconds after which the evidence of a rehearsal is too old."""
SET_RIGHT = 300.0
"""Seconds by which a clock may be set back without harm, because clocks are corrected all the time."""
WHY = "A rehearsal holds for a day, so an upgrade can't be planned further ahead."
_FIRST = {"stopped": "start", "suspended": "resume"}
"""The command that makes a tenant run, by its present state."""


def target(context: Context, found: Tenant, version: str) -> Release:
    """Return the release that a tenant is upgraded to in one step; without a version, the newest possible one.

    Raises Refused if there is no way, and with the steps if one step is not enough.
    """
    there = releases(context.settings)
    bases = [suite.base for suite in suites_since(found.suite)]
    if not version:
        ways = [one.version for one in there if one.takes(found.version) and not one.problem(*bases)]
        if not ways:
            refuse_unread(context)
            raise Refused(
                f"No release in the settings can be installed directly over Mautic {found.version} of `{found.name}`. "
                "See why: `/mautic releases`"
            )
        version = newest_first(ways)[0]
    here, wanted = number(found.version), number(version)
    if here and wanted == here:
        raise Refused(f"`{found.name}` runs Mautic {found.version} already.")
    if here and wanted and wanted < here:
        raise Refused(
            f"`{found.name}` runs Mautic {found.version}, which is newer than {version}. Mautic can't be downgraded; "
            f"`/mautic rollback {found.name}` returns to the container from before the last upgrade."
        )
    refuse_unknown(context, version)
    way = path(found.version, version, there, *bases)
    if way.why:
        raise Refused(f"`{found.name}` can't be upgraded. {way.words}")
    if not way.direct:
        steps = ", then ".join(f"`/mautic upgrade {found.name} {one.version}`" for one in way.steps)
        raise Refused(f"Mautic {version} can't be reached from {found.version} in one step. Run {steps}.")
    return way.steps[0]


def refuse_unknown(context: Context, version: str) -> None:
    """Raise Refused for a version that no release in the settings has."""
    there = releases(context.settings)
    if find(there, version) is None:
        refuse_unread(context, version)
        names = ", ".join(f"`{one.version}`" for one in there) or "none"
        raise UnknownWords(
            f"There is no release “{version[:40]}” in the settings; known: {names}. See all: `/mautic releases`"
        )


def refuse_unread(context: Context, version: str = "") -> None:
    """Raise Refused if a release in the settings was not read yet; with `version`, only if it is that release."""
    wanted = number(version)
    unread = [one for one, release in known(context.settings).items() if release is None]
    keys = [f"`{one.key}`" for one in unread if not version or (wanted and number(one.version) == wanted)]
    if keys:
        words = f"{' and '.join(keys)} in the settings {'was' if len(keys) == 1 else 'were'} not read yet"
        raise Refused(f"{words}. Try again in a minute; `/mautic schedule list` shows what the job `releases` met.")


def refuse_resting(found: Tenant, done: str) -> None:
    """Raise Refused for a tenant that does not run, with what helps; `done`: what is impossible, such as “upgraded”."""
    if found.standing != "running":
        first = _FIRST.get(found.standing)
        helps = f" First `/mautic {first} {found.name}`." if first else ""
        raise Refused(f"`{found.name}` is {found.standing}, and only a running tenant can be {done}.{helps}")


def refuse_missing(context: Context, version: str) -> None:
    """Raise Refused if the settings name a path for the archive of a release, and no file is there.

    The content is checked later.
    """
    for source, release in known(context.settings).items():
        is_it = release is not None and release.version == version
        if is_it and "://" not in source.archive and not Path(source.archive).expanduser().is_file():
            raise Refused(
                f"The archive of Mautic {version} is not at `{source.archive}`. Put it back there, or correct "
                f"`{source.key}` in the settings and restart the bot."
            )


def archive_of(run: Run, version: str) -> Archive:
    """Return a release's archive on the bot's machine; raises Refused if it is gone, or another file."""
    for source in sources(run.settings):
        if number(source.version or version) != number(version):
            continue
        try:
            found = open_archive(source.archive, source.sha256, run.settings.state / "cache")
        except ArchiveError as error:
            raise Refused(str(error)) from error
        if found.version == version or (
            variant(found.version) == variant(version) and number(found.version) == number(version)
        ):
            return found
    raise Refused(f"The archive of Mautic {version} is no longer in the settings.")


def age(context: Context, told: Evidence, at: float = 0.0) -> float:
    """Return the seconds since a rehearsal, or NEVER if its evidence is too old to count.

    A rehearsal that a wrong clock dated into the future may be of any age, so it does not count. `at`: when the upgrade
    begins, if that is later.
    """
    since = max(context.now(), at) - told.at
    return since if told.at <= context.now() + SET_RIGHT and since <= FRESH else NEVER


def fresh(context: Context, host: Host, found: Tenant, version: str, at: float = 0.0) -> Evidence | None:
    """Return the evidence of the last rehearsal if it passed, is not old, and nothing has changed since; else None.

    `at`: when the upgrade begins, if that is later.
    """
    told = newest_of(context, found, version)
    if told is None or not told.passed or age(context, told, at) == NEVER:
        return None
    return None if drifted(told.drift, drift(host, found)) else told


def rehearsed(context: Context, host: Host, found: Tenant, version: str, at: float = 0.0) -> Evidence | None:
    """Return the evidence of the last rehearsal if it holds; None: the upgrade has to be rehearsed first.

    An upgrade that was requested already, or that follows a rehearsal, raises Refused instead of None: people decide on
    evidence, and no rehearsal is followed by another.
    """
    decided = context.operation or context.follows
    return still(context, host, found, version, at) if decided else fresh(context, host, found, version, at)


def still(context: Context, host: Host, found: Tenant, version: str, at: float = 0.0) -> Evidence:
    """Return the evidence of the last rehearsal; raise Refused if that no longer holds, or there is none."""
    told = newest_of(context, found, version)
    change = "update" if version == found.version else "upgrade"
    again = f"`{again_of(found, version)}` rehearses the {change} again."
    if told is None or not told.passed:
        raise Refused(f"No rehearsal of this {change} has passed. {again}")
    if age(context, told, at) == NEVER:
        then = " then" if at > context.now() else ""
        raise Refused(f"The rehearsal of this {change} is more than a day old{then}. {again}")
    if other := drifted(told.drift, drift(host, found)):
        raise Refused(f"`{found.name}` has changed since the rehearsal ({', '.join(other)}). {again}")
    return told


def refuse_detour(context: Context, selection: Selection, version: str) -> None:
    """Raise Refused, with the rollouts that lead there, if no selected tenant reaches a version in one step."""
    if context.operation or context.follows:
        return
    context = replace(context, fleet=context.fleet.once(), many=True)
    names, there = set(select(context, selection, "rollout")), releases(context.settings)
    running = Counter(one.version for one in context.fleet.tenants() if one.name in names)
    bases = [suite.base for suite in SUITES]
    ways = {one: path(one, version, there, *bases) for one in running}
    far = [one for one in running if len(ways[one].steps) > 1]
    if not far or any(way.direct for way in ways.values()):
        return
    current = max(far, key=lambda one: running[one])
    *first, _ = (one.version for one in ways[current].steps)
    steps = ", then ".join(f"`/mautic rollout {one} {selection.words}`" for one in [*first, version])
    raise Refused(f"Mautic {version} can't be reached from {current} in one step. Run {steps}.")


def tried(context: Context, found: Tenant, version: str, at: float = 0.0) -> Evidence | None:
    """Return the evidence of the last rehearsal of an upgrade, passed or not; None: there was none within a day.

    `at`: when the upgrade begins, if that is later. `version`: "" for a patch.
    """
    told = newest_of(context, found, target(context, found, version).version if version else found.version)
    return told if told and age(context, told, at) != NEVER else None


def unrehearsed(
    context: Context, selection: Selection, version: str, at: float = 0.0, command: str = "rollout"
) -> list[str]:
    """Return the selected tenants that have to be rehearsed first: they can be upgraded, and have no recent rehearsal.

    There are none once the rollout was requested, or if it follows rehearsals: it then leaves out tenants without one.
    Raises Refused for a named tenant that cannot be upgraded. `version`: "" for a patch.
    """
    if context.operation or context.follows:
        return []
    found = []
    context = replace(context, fleet=context.fleet.once(), many=True)
    for name in select(context, selection, command):
        try:
            tenant = context.fleet.tenant(name)
            if not version:
                earliest_useful_base(context, tenant)
            if tried(context, tenant, version, at) is None:
                refuse_resting(tenant, "upgraded" if version else "patched")
                found.append(name)
        except Refused:
            if selection.names:
                raise
    return found
