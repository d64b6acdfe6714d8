"""The base of a tenant (Debian packages, PHP, MariaDB): whether it needs another, and its rehearsals."""

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
"""Age of a tenant's Debian packages, in seconds, from which newer ones may be worth a new container."""
RECENT = 7 * 86_400.0
"""Age of a blueprint's Debian packages, in seconds, up to which a tenant may be moved to them."""


def needs_base(context: Context, found: Tenant, version: str) -> bool:
    """Return whether a release needs another PHP or MariaDB than a tenant's container has."""
    release = find(releases(context.settings), version)
    return release is not None and not release.runs_on(suite_named(found.suite).base)


def earliest_useful_base(context: Context, found: Tenant) -> float:
    """Return the earliest time (epoch seconds) of packages worth a move: newer than the tenant's own, and recent.

    Raises Refused if the tenant's own packages are less than a day old.
    """
    age = context.now() - found.base
    if found.base and age < YOUNG:
        raise Refused(
            f"The Debian packages of `{found.name}` are {seconds(max(0.0, age))} old, and newer ones are looked for "
            f"after a day. Try again after {context.renderer.moment(found.base + YOUNG)}."
        )
    return max(found.base + 1.0, context.now() - RECENT)


def refuse_newest(context: Context, found: Tenant) -> None:
    """Raise Refused at the request if a tenant's packages are less than a day old; a stored operation goes on."""
    if not context.operation:
        earliest_useful_base(context, found)


def blueprint_of(context: Context, told: Evidence) -> Tenant | None:
    """Return the blueprint that a rehearsal moved its copy to; None: it needed none, or the blueprint is gone."""
    seen = context.fleet.inventory(Role.BLUEPRINT).tenants if told.blueprint else ()
    return next((one for one in seen if one.instance == told.blueprint), None)


def again_of(found: Tenant, version: str) -> str:
    """Return the command that has an upgrade, or a patch, rehearsed again."""
    return f"/mautic patch {found.name}" if version == found.version else f"/mautic upgrade {found.name} {version}"


def newest_of(context: Context, found: Tenant, version: str) -> Evidence | None:
    """Return the evidence of the newest rehearsal; None if that was of another change, or its blueprint is gone.

    A change is one from a version to another, or to another base.
    """
    told = evidence.newest(context.database, found.name, version)
    if told is None or told.before != found.version or (told.blueprint and blueprint_of(context, told) is None):
        return None
    is_moved = version == found.version or needs_base(context, found, version)
    return told if told.failed or bool(told.blueprint) == is_moved else None
