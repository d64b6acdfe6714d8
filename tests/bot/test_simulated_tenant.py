"""A simulated tenant, healthy and with problems, as `Mautic` sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.guest.mautic import Mautic
from bot.guest.simulated import CLOSED, change
from bot.lxd.protocol import LxdError, LxdUnavailable, NotFound
from bot.model.tenants import PlanSize
from bot.settings import load
from tests.support.simulated_lxd import SimulatedLxd

NOW = 1_800_000_000.0
NAME = "client-x"
LIMITS = load(environment={}).health


@pytest.fixture
def lxd(tmp_path: Path) -> SimulatedLxd:
    server = SimulatedLxd(clock=lambda: NOW)
    (tmp_path / "image").write_bytes(b"image")
    server.import_image(str(tmp_path / "image"), "base", {})
    config = {"user.mautic-ops.version": "5.2.12", "limits.memory": "3GiB"}
    server.create(NAME, "base", config=config, devices={})
    server.start(NAME)
    return server


@pytest.fixture
def mautic(lxd: SimulatedLxd) -> Mautic:
    return Mautic(lxd)


def wrong(mautic: Mautic) -> dict[str, str]:
    checks = mautic.health(NAME, LIMITS)["checks"]
    return {name: check["text"] for name, check in checks.items() if not check["ok"]}


def test_an_unchanged_tenant_is_healthy(mautic: Mautic) -> None:
    health = mautic.health(NAME, LIMITS)
    assert (health["healthy"], wrong(mautic)) == (True, {})
    assert health["facts"]["services"]["mautic-worker@email"] == "active"
    assert (health["facts"]["queue_age"], health["facts"]["database"]) == (0, True)


def test_a_tenant_whose_disk_is_full_has_no_database_until_it_is_enlarged(lxd: SimulatedLxd, mautic: Mautic) -> None:
    root = {"type": "disk", "path": "/", "pool": "pool", "size": "1GiB"}
    lxd.update(NAME, {}, {"root": root})
    lxd.snapshot(NAME, "s-1")
    lxd.fill(NAME, 2 << 30)
    assert mautic.disk(NAME).free == 0
    assert {"disk", "database"} <= set(wrong(mautic))
    for call in (lambda: mautic.restart_part(NAME, "database"), lambda: mautic.close(NAME, "suspended")):
        with pytest.raises(LxdError, match="its disk is full"):
            call()
    lxd.update(NAME, {}, {"root": {**root, "size": "4GiB"}})
    assert "database" in wrong(mautic), "nobody has started the database again"
    mautic.resize(NAME, PlanSize(2, "1GiB", "4GiB", 500, "128M", 4, 1))
    assert wrong(mautic) == {}


@pytest.mark.parametrize(
    ("sick", "checks"),
    [
        ({"stopped": ["mautic-worker@email"], "queue_age": 4000}, {"services", "queues"}),
        ({"stopped": ["cron"], "crons_ended": NOW - 4000}, {"services", "crons"}),
        ({"stopped": ["mariadb"]}, {"services", "database", "login page"}),
        ({"memory": 3 << 30}, {"memory"}),
        ({"log_errors": 400}, {"log"}),
    ],
)
def test_each_problem_of_a_tenant_fails_its_checks(
    lxd: SimulatedLxd, mautic: Mautic, sick: dict[str, Any], checks: set[str]
) -> None:
    change(lxd, NAME, **sick)
    assert set(wrong(mautic)) == checks
    if "mautic-worker@email" in sick.get("stopped", []):
        mautic.restart_part(NAME, "worker")
        assert wrong(mautic) == {}


def test_the_backup_lock_reports_its_duration_and_whether_it_is_consistent(lxd: SimulatedLxd, mautic: Mautic) -> None:
    with mautic.backup_lock(NAME) as hold:
        assert hold.consistent
    assert hold.seconds > 0
    change(lxd, NAME, stopped=["mariadb"])
    with mautic.backup_lock(NAME) as hold:
        assert (hold.consistent, hold.why) == (False, "MariaDB does not answer")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (b'{"ok": true, "kept": false, "seconds": 15}', "writes were let go before the snapshot had ended"),
        (None, "What was asked of `client-x` ended and left no answer."),
        (b'{"ok": true, "kept": "yes", "seconds": 1}', "`client-x` answers nonsense to `let go`: "),
    ],
)
def test_a_backup_lock_that_was_released_too_soon_is_not_consistent(
    lxd: SimulatedLxd, mautic: Mautic, end: bytes | None, why: str
) -> None:
    lxd.speak = lambda *_: iter([b'{"ok": true, "held": true, "why": ""}', *([end] if end else [])])
    with mautic.backup_lock(NAME) as hold:
        assert hold.consistent
    assert not hold.consistent
    assert hold.why.startswith(why)


def test_a_tenant_that_cannot_be_locked_is_still_copied_but_not_an_unreachable_one(
    lxd: SimulatedLxd, mautic: Mautic
) -> None:
    lxd.fail_next("execute", LxdError("LXD could not run `python3` in `client-x`: no."))
    with mautic.backup_lock(NAME) as hold:
        assert (hold.consistent, hold.why) == (False, "LXD could not run `python3` in `client-x`: no.")
    lxd.fail_next("execute", LxdUnavailable("LXD does not answer."))
    with pytest.raises(LxdUnavailable), mautic.backup_lock(NAME):
        pass


@pytest.mark.parametrize("end", [Mautic.quiesce, Mautic.stop_work])
def test_a_move_leaves_a_closed_tenant_closed_and_an_open_one_open(
    mautic: Mautic, end: Callable[[Mautic, str], object]
) -> None:
    end(mautic, NAME)
    assert mautic.health(NAME, LIMITS)["facts"]["closed"]
    mautic.unquiesce(NAME)
    assert wrong(mautic) == {}
    mautic.close(NAME, "suspend")
    end(mautic, NAME)
    mautic.unquiesce(NAME)
    assert set(wrong(mautic)) == {"open", "services"}
    mautic.open(NAME)
    assert wrong(mautic) == {}


def test_jobs_that_did_not_run_while_closed_are_not_late_after_opening(lxd: SimulatedLxd, mautic: Mautic) -> None:
    mautic.close(NAME, "suspend")
    lxd.clock = lambda: NOW + 4 * 3600
    assert "mautic:import (exit code 0)" in wrong(mautic)["crons"]
    mautic.open(NAME)
    assert mautic.health(NAME, LIMITS)["facts"]["crons"]["mautic:import"]["last_success"] == NOW
    assert wrong(mautic) == {}


def test_a_stopped_copy_can_be_closed_before_it_boots(lxd: SimulatedLxd, mautic: Mautic) -> None:
    lxd.stop(NAME)
    mautic.close_copy(NAME)
    assert lxd.pull(NAME, CLOSED)


def test_writes_since_a_time_are_counted_and_a_snapshot_has_its_own_history(lxd: SimulatedLxd, mautic: Mautic) -> None:
    change(lxd, NAME, writes=[("contacts", NOW - 90)])
    lxd.snapshot(NAME, "s")
    change(lxd, NAME, writes=[("contacts", NOW - 90), ("contacts", NOW - 9), ("opt_outs", NOW - 8)])
    assert mautic.counts(NAME, NOW - 10) == {"contacts": 1, "submissions": 0, "opt_outs": 1, "last_write": NOW - 8}
    lxd.copy(f"{NAME}/s", "copy", config={}, devices={})
    lxd.start("copy")
    assert mautic.counts("copy", NOW - 10)["contacts"] == 0
    assert mautic.counts("copy")["contacts"] == 1201


def test_console_logs_and_resize_answer(lxd: SimulatedLxd, mautic: Mautic) -> None:
    assert mautic.console(NAME, ["mautic:import", "--limit", "5"]) == (0, "simulated: mautic:import --limit=5")
    assert mautic.logs(NAME, "mautic", 2).count("\n") == 1
    mautic.resize(NAME, PlanSize(2, "3GiB", "30GiB", 2000, "768M", 8, 1))
    assert b"768M" in lxd.pull(NAME, "/var/lib/mautic-ops/resize.json")


def test_an_unknown_tenant_is_not_found(mautic: Mautic) -> None:
    with pytest.raises(NotFound):
        mautic.open("nobody")
