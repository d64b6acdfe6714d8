"""A simulated tenant is upgraded like a real one: the checks of `tests/mautic_double/upgrade_contract.py`.

`tests/lab/test_upgrade_inside.py` runs the same checks on real LXD.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bot.guest.mautic import Mautic
from bot.guest.simulated_state import change
from bot.lxd.protocol import LxdError
from tests.mautic_double.upgrade_contract import (
    AFTER,
    BEFORE,
    CHECKS,
    Tenant,
    check_a_cache_is_carried_over,
    check_a_cache_of_another_version_is_not,
)
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def lxd(tmp_path: Path) -> SimulatedLxd:
    server = SimulatedLxd(clock=lambda: 1_800_000_000.0)
    (tmp_path / "image").write_bytes(b"image")
    server.import_image(str(tmp_path / "image"), "base", {})
    return server


@pytest.fixture
def make(lxd: SimulatedLxd, tmp_path: Path) -> Callable[[str], Tenant]:
    def made(name: str) -> Tenant:
        lxd.create(name, "base", config={"user.mautic-ops.version": BEFORE}, devices={})
        lxd.start(name)
        return Tenant(Mautic(lxd), name, tmp_path)

    return made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_simulated_upgrade_keeps_the_contract(check: Callable[[Tenant], None], make: Callable[[str], Tenant]) -> None:
    check(make("client-x"))


def test_a_cache_is_carried_over_where_it_fits(make: Callable[[str], Tenant], lxd: SimulatedLxd) -> None:
    warmed, tenant = make("client-x"), make("client-y")
    CHECKS[-1](warmed)
    check_a_cache_of_another_version_is_not(warmed, tenant)
    check_a_cache_is_carried_over(warmed, tenant)
    other = make("client-z")
    change(lxd, "client-z", plugins={"AcmeBundle": True})
    with pytest.raises(LxdError, match="the cache is of another set of plugins"):
        check_a_cache_is_carried_over(warmed, other)


def test_a_failed_migration_is_reported_and_does_not_touch_the_original(
    make: Callable[[str], Tenant], lxd: SimulatedLxd
) -> None:
    tenant = make("client-x")
    lxd.copy("client-x", "client-x--7", config={}, devices={})
    lxd.start("client-x--7")
    change(lxd, "client-x--7", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    copy = Tenant(tenant.mautic, "client-x--7", tenant.folder)
    copy.upgrades.stage(copy.name, copy.archive("6.0.10"))
    copy.mautic.stop_work(copy.name)
    done = copy.upgrades.upgrade(copy.name, AFTER)
    assert (done["migrated"]["done"], done["migrated"]["output"]) == (False, "SQLSTATE[42S21]: Column already exists")
    assert "assets" not in done
    assert not copy.upgrades.up_to_date(copy.name)["up_to_date"]
    assert (tenant.version(), tenant.upgrades.up_to_date("client-x")["new"]) == (BEFORE, [])


@pytest.mark.parametrize("step", ["stage", "swap", "warm", "reload", "page"])
def test_a_step_that_breaks_is_reported_and_the_upgrade_works_once_it_is_repaired(
    make: Callable[[str], Tenant], lxd: SimulatedLxd, step: str
) -> None:
    tenant = make("client-x")
    change(lxd, "client-x", breaks={step: "no space left"})

    def upgrade() -> None:
        tenant.upgrades.stage("client-x", tenant.archive("6.0.10"))
        tenant.mautic.stop_work("client-x")
        tenant.upgrades.upgrade("client-x", AFTER)

    with pytest.raises(LxdError, match=f"{step} failed: no space left"):
        upgrade()
    change(lxd, "client-x", breaks={})
    tenant.upgrades.stage("client-x", tenant.archive("6.0.10")) if step == "stage" else None
    tenant.mautic.stop_work("client-x")
    assert tenant.upgrades.upgrade("client-x", AFTER)["up_to_date"]


def test_a_release_that_does_not_fit_on_the_disk_is_not_staged(
    make: Callable[[str], Tenant], lxd: SimulatedLxd
) -> None:
    tenant = make("client-x")
    lxd.update("client-x", {}, {"root": {"type": "disk", "path": "/", "pool": "pool", "size": "1GiB"}})
    lxd.fill("client-x", 900 << 20)
    with pytest.raises(LxdError, match="and its disk has room for 0 B"):
        tenant.upgrades.stage("client-x", tenant.archive("6.0.10"))
