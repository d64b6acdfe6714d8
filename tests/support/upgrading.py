"""A bot over a real LXD whose settings name a release that tenants are upgraded to, and what people do with it."""

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
    """The release to upgrade to: the double's, or as `make bench TO=… TO_SHA256=…`, which is fetched into a folder."""
    if named := os.environ.get("MAUTIC_OPS_TEST_TO", ""):
        return open_archive(named, os.environ.get("MAUTIC_OPS_TEST_TO_SHA256", ""), cache)
    path, sha256 = release(NEW)
    return open_archive(str(path), sha256, cache)


def as_settings(archive: Archive) -> str:
    """What names a release in a bot's settings, as TOML."""
    version = archive.version.partition("+")[0]
    return f'[releases."{version}"]\narchive = "{archive.path}"\nsha256 = "{archive.sha256}"\n'


@contextmanager
def upgrading(lxd: LxdGateway, folder: Path, more: str = "") -> Iterator[World]:
    """A fresh bot and workspace that know the release; `more` settings, as TOML."""
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
    """The ts of a card with these words, which may be requested only now."""

    def look() -> str:
        return next((str(one["ts"]) for one in world.workspace.cards(CHANNEL) if words in str(one)), "")

    return eventually(look, seconds)


def upgrade_card(world: World, tenant: str) -> tuple[str, str]:
    """Ask for an upgrade and let its rehearsal run: the ts of the rehearsal, and of the card that it asks for then."""
    rehearsal = world.ask(f"upgrade {tenant} {NEW}", "operator")
    assert "Client offline for about" in world.wait_for(rehearsal, "Client offline|failed|not offered")
    return rehearsal, card_of(world, f"Upgrade tenant {tenant}")


def sql(lxd: LxdGateway, instance: str, statements: str) -> list[str]:
    """The words that statements answer with, by the client of a tenant's own MariaDB."""
    argv = ["mariadb", "--batch", "--skip-column-names", "mautic", "-e", statements]
    ended = lxd.execute(instance, argv, timeout=60)
    assert ended.code == 0, ended.stderr
    return ended.stdout.split()


def fault(lxd: LxdGateway, instance: str, kind: str, migration: str = "20250801000000") -> None:
    """Have the double break in one of the migrations of the release."""
    text = f"<?php return ['doctrine:migrations:migrate' => ['{kind}' => '{migration}']];"
    lxd.push(instance, f"{MAUTIC}/config/double.php", text.encode(), mode=0o644)


def version_of(lxd: LxdGateway, instance: str) -> str:
    """The version of the code in an instance."""
    found = lxd.pull(instance, f"{MAUTIC}/app/release_metadata.json").decode()
    return found.partition('"version"')[2].split('"')[1]
