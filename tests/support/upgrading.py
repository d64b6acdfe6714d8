"""A bot over a real LXD whose settings name a release to upgrade tenants to, and helpers for such upgrades."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.fleet import releases
from bot.guest.blueprint.archive import Archive, open_archive
from bot.guest.blueprint.mautic_ctl.trees import MAUTIC
from bot.lxd.gateway import LxdGateway
from bot.settings import load
from tests.support.bot import release
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World, settings_for

NEW = "6.0.10"


def to_upgrade_to(cache: Path) -> Archive:
    """Return the release to upgrade to: the double's, or that of `make bench TO=… TO_SHA256=…`, kept in `cache`."""
    if named := os.environ.get("MAUTIC_OPS_TEST_TO", ""):
        return open_archive(named, os.environ.get("MAUTIC_OPS_TEST_TO_SHA256", ""), cache)
    path, sha256 = release(NEW)
    return open_archive(str(path), sha256, cache)


def as_settings(archive: Archive) -> str:
    """Return the settings that name a release, as TOML."""
    version = archive.version.partition("+")[0]
    return f'[releases."{version}"]\narchive = "{archive.path}"\nsha256 = "{archive.sha256}"\n'


@contextmanager
def upgrading(lxd: LxdGateway, folder: Path, more: str = "") -> Iterator[World]:
    """Yield a fresh bot and workspace whose settings name the release; `more`: further settings, as TOML."""
    config = folder / "own.toml"
    config.write_text(as_settings(to_upgrade_to(folder / "cache")) + more)
    _, environment = settings_for(lxd.endpoint, folder / "state")
    environment["MAUTIC_OPS_CONFIG"] = str(config)
    settings = load(environment=environment)
    settings.state.mkdir()
    assert releases.keep(settings) == []
    world = World(lxd, settings, environment, folder)
    try:
        yield world
    finally:
        world.close()


def card_of(world: World, words: str, seconds: float = 60) -> str:
    """Return the ts of a card with these words, waiting until it is posted."""

    def look() -> str:
        return next((str(one["ts"]) for one in world.workspace.cards(CHANNEL) if words in str(one)), "")

    return eventually(look, seconds)


def upgrade_card(world: World, tenant: str) -> tuple[str, str]:
    """Ask for an upgrade and wait for its rehearsal; return the ts of the rehearsal's and of the upgrade's card."""
    rehearsal = world.ask(f"upgrade {tenant} {NEW}", "operator")
    assert "Client offline for about" in world.wait_for(rehearsal, "Client offline|failed|not offered")
    return rehearsal, card_of(world, f"Upgrade tenant {tenant}")


def sql(lxd: LxdGateway, instance: str, statements: str) -> list[str]:
    """Execute statements with the MariaDB client in a tenant; return the words of the output."""
    argv = ["mariadb", "--batch", "--skip-column-names", "mautic", "-e", statements]
    ended = lxd.execute(instance, argv, timeout=60)
    assert ended.code == 0, ended.stderr
    return ended.stdout.split()


def fault(lxd: LxdGateway, instance: str, kind: str, migration: str = "20250801000000") -> None:
    """Make the double fail in one of the release's migrations."""
    text = f"<?php return ['doctrine:migrations:migrate' => ['{kind}' => '{migration}']];"
    lxd.push(instance, f"{MAUTIC}/config/double.php", text.encode(), mode=0o644)


def version_of(lxd: LxdGateway, instance: str) -> str:
    """Return the version of the code in an instance."""
    found = lxd.pull(instance, f"{MAUTIC}/app/release_metadata.json").decode()
    return found.partition('"version"')[2].split('"')[1]
