"""Puts a blueprint in memory on a simulated server, in place of a real one that takes minutes to build."""

from __future__ import annotations

from bot.guest.blueprint.recipe import FIRST_SUITE, FURNITURE, Suite, recipe_digest
from bot.guest.simulated_state import RELEASE
from bot.lxd.protocol import Lxd
from bot.model.labels import Role, as_labels


def put_blueprint(
    lxd: Lxd,
    version: str,
    *,
    created: int,
    archive: str = "",
    on_demand: bool = False,
    name: str = "",
    suite: Suite = FIRST_SUITE,
) -> str:
    """Put a blueprint of a version on a simulated server; return its name."""
    name = name or f"blueprint--{version}".replace(".", "-").replace("+", "-")
    facts = as_labels(
        role=Role.BLUEPRINT,
        version=version,
        double=True,
        created=created,
        furniture=FURNITURE,
        recipe=recipe_digest(suite),
        archive=archive,
        suite=suite.name,
        base=created,
    )
    if lxd.image("simulated") is None:
        lxd.import_image(__file__, "simulated", {})
    lxd.create(name, "simulated", config=facts | (as_labels(on_demand=True) if on_demand else {}), devices={})
    lxd.push(name, RELEASE, version.encode())
    lxd.snapshot(name, "golden")
    return name
