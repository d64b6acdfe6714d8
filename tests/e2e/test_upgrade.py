"""An upgrade on real parts: rehearsed on a copy, approved in its thread, and back to what was when it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl.trees import MAUTIC
from bot.lxd.gateway import LxdGateway
from bot.settings import load
from tests.mautic_double.build import build
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World, settings_for

NEW = "6.0.10"


@pytest.fixture
def world(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A bot whose settings name another release of the double."""
    archive, config = tmp_path / "6.0.10.zip", tmp_path / "own.toml"
    config.write_text(f'[releases."{NEW}"]\narchive = "{archive}"\nsha256 = "{build(archive, NEW)}"\n')
    _, environment = settings_for(host.endpoint, tmp_path / "state")
    environment["MAUTIC_OPS_CONFIG"] = str(config)
    made = World(host, load(environment=environment), environment, tmp_path)
    made.run_job("releases")
    yield made
    made.close()


def upgrade_card(world: World, tenant: str) -> str:
    """Ask for an upgrade, let its rehearsal run, and return the card that it asks for then."""
    rehearsal = world.ask(f"upgrade {tenant} {NEW}", user="operator")
    assert "Client offline for about" in world.wait_for(rehearsal, "Client offline|failed|not offered")

    def card() -> str:
        return next(
            (str(one["ts"]) for one in world.workspace.cards(CHANNEL) if f"Upgrade tenant {tenant}" in str(one)), ""
        )

    return eventually(card, 60)


def serving(world: World, tenant: str) -> str:
    """The version in the files of the container that serves."""
    found = world.lxd.pull(world.present(tenant), f"{MAUTIC}/app/release_metadata.json").decode()
    return found.partition('"version"')[2].split('"')[1]


def test_a_tenant_is_upgraded_after_a_rehearsal(world: World) -> None:
    tenant, domain = "up-x", "up-x.e2e.localhost"
    gaps, ended = [0.0], threading.Event()

    def visit() -> None:
        last = time.monotonic()
        while not ended.is_set():
            if world.edge.probe(domain, 5).login:
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            time.sleep(0.05)

    try:
        world.done(f"new {tenant}", "is live")
        card = upgrade_card(world, tenant)
        assert world.instances_of(tenant) == [tenant], "the copy is gone"
        assert "Client offline" in world.card(card)
        visitor = threading.Thread(target=visit)
        visitor.start()
        world.approve(card)
        world.wait_for(card, f"now runs Mautic {NEW}", 300)
        ended.set()
        visitor.join()
        print("longest without a page:", round(max(gaps), 2), [one for one in world.thread(card)])
        assert serving(world, tenant).startswith(NEW)
        assert world.edge.probe(domain).login
    finally:
        ended.set()
        world.remove(tenant)


def test_a_migration_that_fails_leaves_the_tenant_as_it_was(world: World) -> None:
    tenant, domain = "up-y", "up-y.e2e.localhost"
    try:
        world.done(f"new {tenant}", "is live")
        card = upgrade_card(world, tenant)
        fault = "<?php return ['doctrine:migrations:migrate' => ['fail_migration' => '20250801000000']];"
        world.lxd.push(tenant, f"{MAUTIC}/config/double.php", fault.encode(), mode=0o644)
        world.approve(card)
        world.wait_for(card, "failed", 300)
        assert serving(world, tenant).startswith("5.2.12")
        assert world.edge.probe(domain).login
        assert world.instances_of(tenant) == [tenant]
    finally:
        world.remove(tenant)
