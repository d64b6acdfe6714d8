"""A host's pool is full to its last block, and MariaDB, which then neither starts nor fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab_world import BASE_DOMAIN, LabWorld
from tests.support.workspace import eventually

TENANT = "full-x"
HOST = "solo1"


@pytest.fixture
def world(lab_world: LabWorld) -> Iterator[LabWorld]:
    """A bot over the lab, and a tenant."""
    lab_world.done(f"new {TENANT} --host {HOST}", "is live")
    yield lab_world
    lab_world.remove(TENANT)


def test_a_tenant_comes_back_by_itself_once_a_full_pool_has_space(world: LabWorld) -> None:
    domain = f"{TENANT}.{BASE_DOMAIN}"
    with world.lab.nodes[HOST].full(TENANT):
        card = world.ask(f"restart {TENANT} --part database", "operator")
        world.approve(card)
        said = world.wait_for(card, r"\* failed", 90)
        assert "its disk is full" in said
        assert not world.edge.probe(domain).login
    eventually(lambda: world.edge.probe(domain).login, 120)
