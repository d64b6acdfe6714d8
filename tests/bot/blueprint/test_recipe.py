"""The recipe: its digest, its bytes, and what its files and its crontab must contain."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from bot.guest.blueprint import base, recipe
from bot.guest.blueprint.base import mirrors
from bot.guest.blueprint.recipe import FILES, recipe_digest, recipe_tar

CRONTAB = (FILES / "tenant/etc/cron.d/mautic").read_text()
MODERATED = {
    "mautic:segments:update",
    "mautic:campaigns:update",
    "mautic:campaigns:trigger",
    "mautic:messages:send",
    "mautic:broadcasts:send",
    "mautic:email:sendwinner",
    "mautic:unusedip:delete",
}
"""Commands with a lock of their own, which can go stale."""


def members(kind: recipe.Kind) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(recipe_tar(kind))) as tar:
        return {member.name: member for member in tar}


def test_the_same_recipe_has_the_same_digest_and_bytes() -> None:
    assert recipe_digest() == recipe_digest()
    assert recipe_tar("edge") == recipe_tar("edge")


def test_any_change_of_a_file_or_a_package_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_digest()
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "STACK", (*recipe.STACK, "another-package"))
        assert recipe_digest() != before
    (tmp_path / "system/etc").mkdir(parents=True)
    (tmp_path / "tenant").mkdir()
    (tmp_path / "system/etc/file").write_text("one")
    monkeypatch.setattr(recipe, "FILES", tmp_path)
    first = recipe_digest()
    (tmp_path / "system/etc/file").write_text("two")
    second = recipe_digest()
    (tmp_path / "system/etc/file").chmod(0o755)
    assert len({before, first, second, recipe_digest()}) == 4


def test_no_job_starts_in_the_second_in_which_every_tenants_cron_wakes() -> None:
    """Jobs that all tenants of a host start at once make visitors wait, as PHP's session cleanup at :09 and :39 did."""
    lines = [line for line in CRONTAB.splitlines() if re.match(r"[\d*]", line)]
    begun = [line.split(maxsplit=6)[6] for line in lines]
    assert len(begun) > 15
    # For jobs that most tenants do not have, the shell checks first, by itself or with one small program.
    asked = r"((test -e|grep -Eqs \"[^\"]+\") /var/www/mautic/\S+ && ){,2}"
    assert [one for one in begun if not re.match(rf"{asked}mautic-(cron|spread) [1-9]\d+ ", one)] == []


def test_files_belong_to_root_and_programs_are_executable() -> None:
    found = members("tenant")
    assert found["usr/local/bin/mautic-cron"].mode == 0o755
    assert found["etc/nginx/nginx.conf"].mode == 0o644
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}


def test_a_blueprint_is_closed_from_its_first_boot_and_the_edge_is_not() -> None:
    assert "etc/nginx/sealed" in members("tenant")
    assert "etc/nginx/sealed" not in members("edge")


def test_units_are_masked_and_enabled_by_links() -> None:
    found = members("edge")
    assert found["etc/systemd/system/caddy.service"].linkname == "/dev/null"
    assert found["etc/systemd/system/multi-user.target.wants/edge.service"].linkname == (
        "/etc/systemd/system/edge.service"
    )


def test_commands_with_a_lock_of_their_own_bypass_it() -> None:
    jobs = dict(re.findall(r"mautic-cron \d+ \d+ (\S+)(.*)", CRONTAB))
    assert {command for command, options in jobs.items() if "--bypass-locking" in options} - {
        "mautic:custom-field:create-column"
    } == MODERATED


@pytest.mark.parametrize(
    ("setting", "command", "begins"),
    [
        ("'create_custom_field_in_background' => true,", True, True),
        ("'create_custom_field_in_background' => true,", False, False),
        ("'create_custom_field_in_background' => false,", True, False),
        ("", True, False),
    ],
)
def test_the_job_for_deleted_fields_starts_only_if_release_and_settings_have_it(
    tmp_path: Path, setting: str, command: bool, begins: bool
) -> None:
    (line,) = re.findall(r"^.* www-data (.* && )mautic-cron .*:delete-column$", CRONTAB, re.MULTILINE)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/local.php").write_text(f"<?php $parameters = array({setting});")
    if command:
        path = tmp_path / "app/bundles/LeadBundle/Field/Command/DeleteCustomFieldCommand.php"
        path.parent.mkdir(parents=True)
        path.touch()
    ended = subprocess.run(["sh", "-c", line.replace("/var/www/mautic", str(tmp_path)) + "true"], check=False)
    assert (ended.returncode == 0) == begins


def test_the_crontab_has_no_command_that_destroys_data() -> None:
    active = [line for line in CRONTAB.splitlines() if not line.startswith("#")]
    assert not [line for line in active if "maintenance" in line or "install" in line]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("", (base.MIRROR, base.SECURITY)),
        (
            "# deb http://old.example/debian bookworm main\ndeb https://mirror.example/debian/ bookworm main\n",
            ("https://mirror.example/debian", base.SECURITY),
        ),
        (
            "Types: deb\nURIs: http://m.example/debian\n\nTypes: deb\nURIs: http://m.example/debian-security\n",
            ("http://m.example/debian", "http://m.example/debian-security"),
        ),
        ("deb http://archive.ubuntu.com/ubuntu noble main\n", (base.MIRROR, base.SECURITY)),
    ],
)
def test_debian_comes_from_the_mirror_of_the_host(sources: str, expected: tuple[str, str]) -> None:
    assert mirrors(sources) == expected
