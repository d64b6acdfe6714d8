"""What the bot relies on in the tool that upgrades a tenant: checks for a simulated tenant and for a real one.

Each takes an open `Tenant` with the double's release 5.2.12 and nothing staged; its docstring says if it leaves another
version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.guest.blueprint.archive import Archive
from bot.guest.mautic import Mautic
from bot.guest.upgrades import Upgrades
from bot.lxd.protocol import LxdError
from tests.mautic_double.build import build

BEFORE, AFTER = "5.2.12+double", "6.0.10+double"
MIGRATIONS = ["20250801000000", "20250915000000"]
"""The migrations of 6.0."""


@dataclass(frozen=True)
class Tenant:
    """A tenant, and a folder for archives."""

    mautic: Mautic
    name: str
    folder: Path

    @property
    def upgrades(self) -> Upgrades:
        """The upgrade verbs of its tool."""
        return Upgrades(self.mautic)

    def archive(self, release: str) -> Archive:
        """Build and return one of the double's releases."""
        path = self.folder / f"{release}.zip"
        return Archive(path, build(path, release), f"{release}+double")

    def version(self) -> str:
        """Return the version that serves."""
        found: str = self.mautic.call(self.name, "version", {})["version"]
        return found


def check_what_does_not_run_here_is_not_staged(tenant: Tenant) -> None:
    for release, why in (("8.0.0", "runs on PHP 8.4.0 to"), ("7.2.2", "can be reached from 6.0.0 on")):
        with pytest.raises(LxdError, match=why):
            tenant.upgrades.stage(tenant.name, tenant.archive(release))
    damaged = Archive(tenant.archive("6.0.10").path, "0" * 64, AFTER)
    with pytest.raises(LxdError, match="another file than was meant"):
        tenant.upgrades.stage(tenant.name, damaged)
    with pytest.raises(LxdError, match="nothing is staged"):
        tenant.upgrades.lay_cache(tenant.name, tenant.upgrades.pack_cache(tenant.name))


def check_nothing_of_one_that_is_open_is_changed(tenant: Tenant) -> None:
    tenant.upgrades.stage(tenant.name, tenant.archive("6.0.10"))
    for step in (tenant.upgrades.swap, tenant.upgrades.upgrade):
        with pytest.raises(LxdError, match="it is open"):
            step(tenant.name, AFTER)
    for work in (tenant.upgrades.migrate, tenant.upgrades.warm):
        with pytest.raises(LxdError, match="it is open"):
            work(tenant.name)
    assert tenant.version() == BEFORE
    assert tenant.upgrades.up_to_date(tenant.name)["up_to_date"]


def check_one_is_staged_again_and_discarded(tenant: Tenant) -> None:
    for _ in range(2):
        staged = tenant.upgrades.stage(tenant.name, tenant.archive("6.0.10"))
        assert (staged["version"], staged["before"], staged["own"]["known"]) == (AFTER, BEFORE, True)
    tenant.upgrades.discard(tenant.name)
    tenant.mautic.stop_work(tenant.name)
    with pytest.raises(LxdError, match="is not staged"):
        tenant.upgrades.swap(tenant.name, AFTER)
    tenant.mautic.unquiesce(tenant.name)
    assert tenant.version() == BEFORE


def check_it_is_upgraded_once_with_evidence(tenant: Tenant) -> None:
    """It serves 6.0.10 afterwards."""
    before = tenant.upgrades.evidence(tenant.name)
    assert (before["version"], before["whole"], before["uncounted"]) == (BEFORE, True, [])
    assert "leads column email varchar(191) null" in " ".join(before["schema"])
    assert {"leads", "form_submissions"} <= before["counts"].keys()
    tenant.upgrades.stage(tenant.name, tenant.archive("6.0.10"))
    tenant.mautic.stop_work(tenant.name)
    assert tenant.upgrades.record(tenant.name) == 0
    done = tenant.upgrades.upgrade(tenant.name, AFTER)
    assert (done["version"], done["carried"], done["up_to_date"]) == (AFTER, False, True)
    assert (done["migrated"]["done"], done["migrated"]["ran"]) == (True, MIGRATIONS)
    assert done["phases"].keys() == {"swap", "database", "cache", "migrate", "reload", "page"}
    assert {answer["status"] for answer in done["assets"].values()} == {200}
    assert {"/s/login", "/media/css/app.css", "/media/js/app.js"} <= done["assets"].keys()
    again = tenant.upgrades.upgrade(tenant.name, AFTER)
    assert (again["migrated"]["ran"], again["up_to_date"], tenant.version()) == ([], True, AFTER)
    tenant.mautic.unquiesce(tenant.name)
    after = tenant.upgrades.evidence(tenant.name)
    brought = set(after["schema"]) - set(before["schema"])
    assert any(line.startswith("campaigns column uuid") for line in brought), brought
    assert after["counts"]["leads"] == before["counts"]["leads"]
    assert after["migrations"] > before["migrations"]
    assert tenant.upgrades.up_to_date(tenant.name)["up_to_date"]


CHECKS: tuple[Callable[[Tenant], None], ...] = (
    check_what_does_not_run_here_is_not_staged,
    check_nothing_of_one_that_is_open_is_changed,
    check_one_is_staged_again_and_discarded,
    check_it_is_upgraded_once_with_evidence,
)


def check_a_cache_is_carried_over(warmed: Tenant, tenant: Tenant) -> None:
    """Carry it from `warmed`, which serves 6.0.10, into `tenant` with 5.2.12, which serves 6.0.10 afterwards."""
    packed = warmed.upgrades.pack_cache(warmed.name)
    tenant.upgrades.stage(tenant.name, tenant.archive("6.0.10"))
    tenant.upgrades.lay_cache(tenant.name, packed)
    tenant.mautic.stop_work(tenant.name)
    done = tenant.upgrades.upgrade(tenant.name, AFTER)
    assert (done["carried"], done["migrated"]["ran"], done["up_to_date"]) == (True, MIGRATIONS, True)
    assert {answer["status"] for answer in done["assets"].values()} == {200}
    tenant.mautic.unquiesce(tenant.name)


def check_a_cache_of_another_version_is_not(warmed: Tenant, tenant: Tenant) -> None:
    """`warmed` serves 6.0.10 and `tenant` 5.2.12, both before and after."""
    packed = tenant.upgrades.pack_cache(tenant.name)
    tenant.upgrades.stage(tenant.name, tenant.archive("6.0.10"))
    with pytest.raises(LxdError, match="the cache is of another version"):
        tenant.upgrades.lay_cache(tenant.name, packed)
    tenant.upgrades.discard(tenant.name)
