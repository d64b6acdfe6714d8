"""`/mautic releases`: lists the known versions of Mautic, and what is known of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.engine.context import Context
from bot.engine.registry import query
from bot.fleet import releases as catalogue
from bot.fleet.advisories import advisories
from bot.guest.blueprint.archive import BASES
from bot.guest.blueprint.recipe import SUITES, recipe_digest
from bot.model.advisories import Advisory, Support, counted
from bot.model.labels import Role
from bot.model.releases import Release, find, newest_first, path
from bot.model.tenants import Tenant
from bot.slack.messages import Message

ROUTES = 4
"""How many of the versions that may be upgraded to a release are named."""


@dataclass(frozen=True)
class Built:
    """A blueprint: its host, its age in seconds, and whether an earlier recipe made it."""

    host: str
    age: float
    old: bool


@dataclass(frozen=True)
class Row:
    """A version as it is shown.

    Attributes:
        release: what its archive says; None where the settings have no release of this version, or it was not read yet.
        tenants: how many tenants run this version.
        from_: versions of tenants that can be upgraded to it in one step, with how many tenants; newest first.
        problem: why it does not run on today's recipe, "" where it does.
        over: whether nobody gets fixes any more without paying.
    """

    version: str
    tenants: int
    release: Release | None
    built: tuple[Built, ...]
    from_: tuple[tuple[str, int], ...]
    problem: str
    holes: tuple[Advisory, ...]
    cure: str
    support: Support | None
    over: bool

    @property
    def icon(self) -> str:
        """Its emoji: red where tenants run a version with holes."""
        if self.holes and self.tenants:
            return ":red_circle:"
        return ":large_orange_circle:" if self.holes or self.over or self.problem else ":large_green_circle:"

    @property
    def holes_words(self) -> str:
        """The numbers of its security holes by severity."""
        return counted(self.holes)


@query
def releases(context: Context) -> Message:
    """List Mautic versions: tenants, blueprints, requirements, upgrade paths, support and known security holes."""
    seen = context.fleet.inventory(Role.TENANT, Role.BLUEPRINT)
    running = Counter(one.version for one in seen.tenants if one.role == Role.TENANT)
    blueprints = [one for one in seen.tenants if one.role == Role.BLUEPRINT]
    told, holes = catalogue.known(context.settings), advisories(context.settings)
    there = catalogue.releases(context.settings)
    stands = {one.version for one in seen.tenants} | {one.version for one in there}
    versions = newest_first(stands - {""})
    today = datetime.fromtimestamp(context.now(), UTC).date()

    def row(version: str) -> Row:
        found, support = find(there, version), holes.support_of(version)
        return Row(
            version=version,
            tenants=running[version],
            release=found,
            built=_built(context, blueprints, version),
            from_=_from(running, version, there) if found else (),
            problem=found.problem(*BASES) if found else "",
            holes=holes.of(version),
            cure=holes.cure(version),
            support=support,
            over=support is not None and support.over(today),
        )

    return context.renderer.message(
        "commands/releases.j2",
        rows=[row(version) for version in versions],
        unread=[source.key for source, release in told.items() if release is None],
        shown=ROUTES,
        silent=seen.silent,
    )


def _built(context: Context, blueprints: Iterable[Tenant], version: str) -> tuple[Built, ...]:
    """Return the newest blueprint of a version on each host."""
    newest: dict[str, Tenant] = {}
    for one in sorted((one for one in blueprints if one.version == version), key=lambda one: one.created):
        newest[one.host] = one
    recipes = {recipe_digest(suite) for suite in SUITES}
    return tuple(
        Built(host, max(0.0, context.now() - one.created), one.recipe not in recipes)
        for host, one in sorted(newest.items())
    )


def _from(running: Counter[str], version: str, there: Sequence[Release]) -> tuple[tuple[str, int], ...]:
    ways = [one for one in newest_first(running) if path(one, version, there, *BASES).direct]
    return tuple((one, running[one]) for one in ways)
