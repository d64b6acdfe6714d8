"""Computes the values that an incident's button needs when it is pressed, because incidents store none."""

from __future__ import annotations

from bot.engine.context import Context
from bot.fleet.advisories import advisories, best_upgrade
from bot.fleet.releases import releases
from bot.model.labels import Role
from bot.model.plan import Refused


def values_of(context: Context, kind: str) -> dict[str, str]:
    """Return the values for the remedies of a kind of finding, by name; raise Refused where there is no remedy now."""
    if kind != "advisories":
        return {}
    known, tenants = advisories(context.settings), context.fleet.inventory(Role.TENANT).tenants
    cure = best_upgrade(known, releases(context.settings), tenants)
    if not cure:
        raise Refused(
            "No release in the settings, without known holes itself, is one that these tenants can be upgraded to in "
            "one step. Add one under `[releases]` and restart the bot; `/mautic releases` says which version fixes "
            "each hole."
        )
    return {"cure": cure}
