"""What tenants run on, their base: whether a release wants another, and what rehearsals found of changing it."""

from __future__ import annotations

from bot.engine.context import Context
from bot.fleet.releases import releases
from bot.guest.blueprint.recipe import suite_named
from bot.model.evidence import Evidence
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.model.releases import find
from bot.model.tenants import Tenant
from bot.model.text import seconds
from bot.store import evidence

YOUNG = 86_400.0
"""Seconds after which there may be packages that are worth a new container."""
RECENT = 7 * 86_400.0
"""Seconds for which a blueprint's packages of Debian are new enough for a tenant to be brought to them."""


def needs_base(context: Context, found: Tenant, version: str) -> bool:
    """Whether a release wants another PHP or MariaDB than a tenant's container has."""
    release = find(releases(context.settings), version)
    return release is not None and not release.runs_on(suite_named(found.suite).base)


def newer_than(context: Context, found: Tenant) -> float:
    """Return from when on packages are to be that are worth bringing a tenant to: newer than its own, and not old.

    Raises Refused where its own are of today.
    """
    age = context.now() - found.base
    if found.base and age < YOUNG:
        raise Refused(
            f"The Debian packages of `{found.name}` are {seconds(max(0.0, age))} old, and newer ones are looked for "
            f"after a day. Try again after {context.renderer.moment(found.base + YOUNG)}."
        )
    return max(found.base + 1.0, context.now() - RECENT)


def refuse_newest(context: Context, found: Tenant) -> None:
    """Raise Refused where a tenant's own packages are of today; what was asked for already goes on."""
    if not context.operation:
        newer_than(context, found)


def blueprint_of(context: Context, told: Evidence) -> Tenant | None:
    """Return the blueprint that a rehearsal put its copy on; None: it needed none, or it is gone."""
    seen = context.fleet.inventory(Role.BLUEPRINT).tenants if told.blueprint else ()
    return next((one for one in seen if one.instance == told.blueprint), None)


def again_of(found: Tenant, version: str) -> str:
    """Return what a person types to have an upgrade, or a patch, rehearsed again."""
    return f"/mautic patch {found.name}" if version == found.version else f"/mautic upgrade {found.name} {version}"


def newest_of(context: Context, found: Tenant, version: str) -> Evidence | None:
    """Return what the newest rehearsal found that is of this very step, from a version to another, or to a base."""
    told = evidence.newest(context.database, found.name, version)
    if told is None or told.before != found.version or (told.blueprint and blueprint_of(context, told) is None):
        return None
    is_moved = version == found.version or needs_base(context, found, version)
    return told if told.failed or bool(told.blueprint) == is_moved else None
