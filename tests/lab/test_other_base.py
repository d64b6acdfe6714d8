"""A release that needs another PHP, on the whole stack: the tenant gets a container of the next Debian."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.fleet import releases
from bot.guest.blueprint.archive import open_archive
from bot.guest.blueprint.build import build
from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.model.labels import label_of
from bot.settings import load
from tests.lab.conftest import CACHE
from tests.support.bot import release
from tests.support.forms import make_form
from tests.support.world import World, settings_for

TENANT = "next-x"
DOMAIN = f"{TENANT}.e2e.localhost"

# Building a base of another Debian takes minutes.
pytestmark = pytest.mark.long


@pytest.fixture
def world(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A bot whose settings name the releases up to one that needs another PHP."""
    config = tmp_path / "own.toml"
    told = [(version, *release(version)) for version in ("7.2.2", "8.0.0")]
    config.write_text(
        "".join(f'[releases."{name}"]\narchive = "{path}"\nsha256 = "{digest}"\n' for name, path, digest in told)
    )
    _, environment = settings_for(host.endpoint, tmp_path / "state")
    environment |= {"MAUTIC_OPS_CONFIG": str(config)}
    settings = load(environment=environment)
    settings.state.mkdir()
    assert releases.keep(settings) == []
    made = World(host, settings, environment, tmp_path)
    yield made
    made.close()


def sh(world: World, instance: str, *argv: str) -> str:
    ended = world.lxd.execute(instance, list(argv), timeout=60)
    assert ended.code == 0, ended.stderr
    return ended.stdout


def test_an_upgrade_moves_a_tenant_to_the_php_and_mariadb_that_the_release_needs(world: World) -> None:
    for version in ("7.2.2", "8.0.0"):
        path, digest = release(version)
        archive = open_archive(str(path), digest, CACHE)
        build(world.lxd, archive, base="debootstrap", cache=CACHE, progress=print, on_demand=True)
    try:
        world.done(f"new {TENANT} --version 7.2.2+double", "is live")
        make_form(world.lxd, TENANT)
        people = "INSERT INTO leads (date_added, email) SELECT UTC_TIMESTAMP(), CONCAT('old-', seq) FROM seq_1_to_5000"
        sh(world, TENANT, "mariadb", "mautic", "-e", people)
        assert sh(world, TENANT, "php", "-r", "echo PHP_VERSION;").startswith("8.2.")
        world.done(f"rehearse {TENANT} 8.0.0", "is rehearsed|was rehearsed", approve="")
        world.done(f"upgrade {TENANT} 8.0.0", r"now runs Mautic 8\.0\.0")
        present = world.present(TENANT)
        assert label_of(world.lxd.instance(present).config, "suite") == "trixie"
        assert sh(world, present, "php", "-r", "echo PHP_VERSION;").startswith("8.4.")
        assert "11.8." in sh(world, present, "mariadb", "--version")
        counted = "SELECT COUNT(*) FROM leads WHERE email LIKE 'old-%'"
        assert sh(world, present, "mariadb", "-N", "mautic", "-e", counted) == "5000\n"
        assert world.edge.probe(DOMAIN).login
        checks = Mautic(world.lxd).health(present, world.settings.health)["checks"]
        assert {name for name, one in checks.items() if not one["ok"]} <= {"crons"}
    finally:
        world.remove(TENANT)
