"""A tenant's furniture: its version, and how it is laid, updated and taken back."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint import furniture
from bot.guest.blueprint.mautic_ctl import furniture as inside
from bot.guest.blueprint.mautic_ctl import outbound, sizes, slots, version
from bot.guest.blueprint.mautic_ctl.jobs import SENDERS
from bot.guest.blueprint.mautic_ctl.system import PHP, CtlError
from bot.guest.blueprint.recipe import FIRST, FURNITURE, furniture_digest, furniture_tar, recipe_tar
from bot.model.labels import label_of
from tests.support.simulated_lxd import SimulatedLxd

KNOWN = (11, "78a2bcdbccb2c950f49daf7e035b63da1ccbea9427252d9318dac85117c58267")
"""The version, and the digest of what stands in a tenant since then. A change of any of it is a new version: count
FURNITURE on, and write its digest here, so that tenants with an older one are brought up to date."""


def names(tar: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        return set(found.getnames())


def test_a_change_of_the_furniture_needs_a_new_version() -> None:
    assert (FURNITURE, furniture_digest()) == KNOWN


def test_files_that_depend_on_identity_or_size_are_only_in_a_blueprint() -> None:
    assert names(recipe_tar("tenant")) - names(furniture_tar()) == set(FIRST)


def test_mautic_look_is_shipped_with_the_conditions_of_mautic_ctl() -> None:
    guest = "usr/local/lib/mautic-ops/guest"
    assert {f"{guest}/mautic_look/rules.py", f"{guest}/mautic_ctl/due.py", f"{guest}/mautic_ctl/__init__.py"} <= names(
        furniture_tar()
    )
    assert not any(name.startswith("usr/local/lib/mautic-ops") for name in names(recipe_tar("edge")))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tenant's root folder without any furniture."""
    monkeypatch.setattr(inside, "ROOT", tmp_path)
    monkeypatch.setattr(inside, "CRONTAB", tmp_path / "etc/cron.d/mautic")
    monkeypatch.setattr(outbound, "OFF", tmp_path / "off")
    return tmp_path


def jobs(crontab: str) -> set[str]:
    return set(re.findall(r"^[^#\n]*mautic-cron \d+ \d+ (\S+)", crontab, re.MULTILINE))


def lay() -> None:
    with tarfile.open(fileobj=io.BytesIO(furniture_tar())) as tar:
        inside.lay(tar)


def test_files_and_links_are_laid_and_correct_ones_are_left_alone(root: Path) -> None:
    program, link = root / "usr/local/bin/mautic-cron", root / "etc/systemd/system/apt-daily.timer"
    crontab, other = root / "etc/cron.d/mautic", root / "etc/nginx/nginx.conf"
    lay()
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert os.readlink(link) == "/dev/null"
    seen = program.stat().st_ino
    crontab.write_text("# of an older version\n")
    link.unlink()
    link.write_text("[Timer]\n")
    # Somebody who is root in the tenant may have replaced a file with a link to an identical one.
    other.rename(root / "elsewhere")
    other.symlink_to(root / "elsewhere")
    lay()
    assert program.stat().st_ino == seen
    assert "mautic:import" in crontab.read_text()
    assert os.readlink(link) == "/dev/null"
    assert not other.is_symlink()


def test_the_version_of_php_is_filled_in_everywhere(root: Path) -> None:
    lay()
    names_it = [
        path for path in root.rglob("*") if "@PHP@" in path.name or (path.is_file() and b"@PHP@" in path.read_bytes())
    ]
    assert names_it == []
    ordered = (root / "etc/systemd/system/nginx.service.d/start.conf").read_text()
    assert f" php{PHP}-fpm.service\n" in ordered


def test_a_new_crontab_sends_nothing_while_outbound_mail_is_off(root: Path) -> None:
    lay()
    shipped = jobs((root / "etc/cron.d/mautic").read_text())
    outbound.OFF.touch()
    lay()
    assert shipped - jobs((root / "etc/cron.d/mautic").read_text()) == set(SENDERS)


@pytest.fixture
def done(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that are run in a tenant whose furniture has been pushed, in order."""
    done: list[str] = []
    for name, path in (
        ("TAR", "furniture.tar"), ("SETTINGS", "settings"), ("STATE", "state"), ("DATABASE_PLAN", "90-plan.cnf"),
        ("FORMER", "state/former.tar"), ("KEPT", "state/former.json"), ("LOOK_UNIT", "look.service"),
        ("MAUTIC", "mautic"),
    ):  # fmt: skip
        monkeypatch.setattr(inside, name, root / path)
    monkeypatch.setattr(slots, "SETTINGS", root / "settings")
    monkeypatch.setattr(slots, "CRONTAB", root / "etc/cron.d/mautic")
    monkeypatch.setattr(inside, "FURNITURE", root / "state/furniture.json")
    monkeypatch.setattr(version, "FURNITURE", root / "state/furniture.json")
    monkeypatch.setattr(inside, "DATABASE_CONFIG", root / "etc/mysql/mariadb.conf.d/80-mautic.cnf")
    monkeypatch.setattr(sizes, "DATABASE_PLAN", root / "90-plan.cnf")
    monkeypatch.setattr(sizes, "GROWS", root / "usr/local/bin/mautic-pool")
    (root / "90-plan.cnf").write_text("# Sizes of the tenant's plan.\n[mysqld]\ninnodb_buffer_pool_size = 3G\n")
    monkeypatch.setattr(inside, "DATABASE_RUNS", root / "mysqld.pid")
    monkeypatch.setattr(inside, "await_systemd", lambda: None)
    monkeypatch.setattr(inside, "start_database", lambda: done.append("start database"))
    monkeypatch.setattr(inside, "restart_database", lambda: done.append("restart mariadb"))
    monkeypatch.setattr(inside, "restart_stopped", lambda: None)
    monkeypatch.setattr(inside, "systemctl", lambda *words: done.append(" ".join(words)))
    monkeypatch.setattr(inside, "run", lambda *words, **_: done.append(" ".join(words)))
    monkeypatch.setattr(inside, "sql", lambda statements: done.append(statements.split(";")[0][:11]))
    (root / "furniture.tar").write_bytes(furniture_tar())
    return done


def test_a_tenant_gets_its_furniture_and_its_version(root: Path, done: list[str]) -> None:
    assert version.furniture_version() == 1
    assert inside.furnish({"version": 7, "every": 600}) == {"version": 7, "before": 1}
    # journald is restarted before anything starts: a service that starts meanwhile dies, and cron would stay down.
    journal = "systemctl try-restart systemd-journald"
    assert done[:5] == ["daemon-reload", journal, "start database", "restart mariadb", "CREATE USER"]
    assert not any("journald" in one for one in done[2:])
    assert (root / "settings").read_text().splitlines()[-1] == "every=600"
    assert json.loads((root / "state/furniture.json").read_text()) == {"version": 7}
    assert not (root / "furniture.tar").exists()


def test_a_furnished_tenants_buffer_pool_starts_small_and_can_grow_to_its_planned_size(
    root: Path, done: list[str]
) -> None:
    inside.furnish({"version": 7, "every": 600})
    assert (root / "90-plan.cnf").read_text().splitlines()[1:] == [
        f"# pool = {3 << 30}",
        "[mysqld]",
        f"innodb_buffer_pool_size = {384 << 20}",
    ]
    (root / "furniture.tar").write_bytes(furniture_tar())
    inside.furnish({"version": 8, "every": 600})
    assert sizes.planned_pool() == 3 << 30


def test_furnishing_again_changes_only_the_setting(root: Path, done: list[str]) -> None:
    inside.furnish({"version": 7, "every": 600})
    done.clear()
    (root / "furniture.tar").write_bytes(furniture_tar())
    assert inside.furnish({"version": 7, "every": 0}) == {"version": 7, "before": 7}
    assert done == []
    assert (root / "settings").read_text().splitlines()[-1] == "every=0"


def test_a_database_that_runs_with_its_current_configuration_is_not_restarted(root: Path, done: list[str]) -> None:
    inside.furnish({"version": 7, "every": 600})
    done.clear()
    (root / "furniture.tar").write_bytes(furniture_tar())
    (root / "mysqld.pid").touch()
    os.utime(root / "mysqld.pid", (2**31, 2**31))
    inside.furnish({"version": 8, "every": 600})
    assert "restart mariadb" not in done
    assert "daemon-reload" in done


def test_interrupted_furnishing_is_done_again(root: Path, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise CtlError("the database refused a statement (ERROR 2002)")

    with monkeypatch.context() as patch:
        patch.setattr(inside, "sql", refuse)
        with pytest.raises(CtlError):
            inside.furnish({"version": 7, "every": 600})
    done.clear()
    assert inside.furnish({"version": 7, "every": 600})["before"] == 1
    assert "daemon-reload" in done


def stands(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of each file in a tenant by its path; the content of a link is its target."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if (path.is_file() or path.is_symlink()) and not name.startswith(("state/", "furniture.tar")):
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[name] = path.lstat().st_mode, content
    return found


def before_it(root: Path) -> dict[str, tuple[int, bytes]]:
    """Put some files of an older version into a tenant, and return what it has then."""
    for name, text in (("etc/cron.d/mautic", b"# older \xff\n"), ("settings", b"every=60\n")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/systemd/system/apt-daily.timer").symlink_to("/elsewhere")
    return stands(root)


def test_furnishing_that_fails_restores_the_older_version(
    root: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = before_it(root)

    def refuse() -> None:
        done.append("restart mariadb")
        if done.count("restart mariadb") == 1:
            raise CtlError("systemctl restart mariadb failed")

    monkeypatch.setattr(inside, "restart_database", refuse)
    with pytest.raises(CtlError):
        inside.furnish({"version": 7, "every": 600, "slot": 130})
    assert stands(root) == before
    assert version.furniture_version() == 1


def test_furnishing_can_be_taken_back_once(root: Path, done: list[str]) -> None:
    before = before_it(root)
    inside.furnish({"version": 7, "every": 600, "slot": 130})
    assert stands(root) != before
    assert inside.unfurnish({"version": 8}) == {"version": 7}, "it was not furnished with version 8"
    assert inside.unfurnish({"version": 7}) == {"version": 1}
    assert stands(root) == before
    assert inside.unfurnish({"version": 7}) == {"version": 1}


def test_taking_back_after_an_interruption_restores_the_state_before_it(
    root: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = before_it(root)

    def cut(*_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inside, "systemctl", cut)
        with pytest.raises(KeyboardInterrupt):
            inside.furnish({"version": 7, "every": 600})
    inside.furnish({"version": 7, "every": 600})
    inside.unfurnish({"version": 7})
    assert stands(root) == before


def test_a_slot_moves_the_heavy_jobs_of_the_new_crontab(root: Path, done: list[str]) -> None:
    inside.furnish({"version": 7, "every": 600, "slot": 130})
    assert "slot=130" in (root / "settings").read_text()
    assert (
        "\n12,27,42,57 * * * * www-data mautic-cron 50 7200 mautic:campaigns:trigger"
        in (root / "etc/cron.d/mautic").read_text()
    )


def test_a_furnished_tenant_has_the_version_in_its_label() -> None:
    lxd = SimulatedLxd()
    lxd.import_image(__file__, "base", {})
    lxd.create("client-x", "base", config={}, devices={})
    lxd.start("client-x")
    assert furniture.is_old(lxd.instance("client-x"))
    furniture.furnish(lxd, "client-x", every=60)
    tenant = lxd.instance("client-x")
    assert (label_of(tenant.config, "furniture"), furniture.is_old(tenant)) == (str(FURNITURE), False)
    asked: dict[str, Any] = json.loads(lxd.pull("client-x", "/var/lib/mautic-ops/furnish.json"))
    assert asked == {"version": FURNITURE, "every": 3600, "slot": None}


@pytest.mark.parametrize("label", ["", "1", "two"])
def test_a_tenant_without_a_valid_label_has_furniture_version_1(label: str) -> None:
    lxd = SimulatedLxd()
    lxd.import_image(__file__, "base", {})
    lxd.create("client-x", "base", config={"user.mautic-ops.furniture": label}, devices={})
    assert furniture.furniture_of(lxd.instance("client-x").config) == 1
