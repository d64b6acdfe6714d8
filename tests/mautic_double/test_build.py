"""The double's archive: it has a release's layout, is the same wherever it is built, and says that it is a double."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bot.guest.blueprint.archive import open_archive
from bot.guest.blueprint.mautic_ctl.stage import numbers
from tests.mautic_double import build


@pytest.fixture(params=build.RELEASES)
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> zipfile.ZipFile:
    build.build(tmp_path / "double.zip", request.param)
    return zipfile.ZipFile(tmp_path / "double.zip")


def metadata_of(tmp_path: Path, release: str) -> dict[str, str]:
    build.build(tmp_path / f"{release}.zip", release)
    found: dict[str, str] = json.loads(zipfile.ZipFile(tmp_path / f"{release}.zip").read("app/release_metadata.json"))
    return found


def test_the_archive_has_the_layout_of_a_release(archive: zipfile.ZipFile) -> None:
    names = set(archive.namelist())
    assert {"index.php", ".env", ".htaccess", "bin/console", "composer.json", "config/.gitkeep"} <= names
    assert {"media/files/", "media/images/", "plugins/", "themes/", "translations/", "var/"} <= names
    assert {"media/css/app.css", "media/js/app.js", "themes/blank/config.json"} <= names
    assert "plugins/MauticSocialBundle/MauticSocialBundle.php" in names
    assert any(name.startswith("app/migrations/Version") for name in names)
    assert any(name.startswith("vendor/composer/") for name in names)
    assert not any(name.startswith("var/logs") for name in names), "Mautic's own archive has none either"


def test_the_console_can_be_executed(archive: zipfile.ZipFile) -> None:
    assert archive.getinfo("bin/console").external_attr >> 16 & 0o111 == 0o111


def test_the_metadata_say_that_it_is_a_double(archive: zipfile.ZipFile) -> None:
    metadata = json.loads(archive.read("app/release_metadata.json"))
    assert metadata["version"].endswith("+double")
    assert metadata["install_source"] == "double"


def test_the_same_tree_gives_the_same_sha256_which_is_printed(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, build.__file__, str(tmp_path / "other.zip")], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == build.build(tmp_path / "double.zip")


def test_each_release_is_reached_from_the_one_before_it(tmp_path: Path) -> None:
    before = "5.2.11"
    for release in build.RELEASES:
        metadata = metadata_of(tmp_path, release)
        assert metadata["version"] == f"{release}+double"
        assert numbers(metadata["minimum_mautic_version"]) <= numbers(before) <= numbers(release)
        before = release


def test_one_release_needs_a_newer_debian_and_all_others_run_on_the_first(tmp_path: Path) -> None:
    suites = {}
    for release in build.RELEASES:
        path = tmp_path / f"{release}.zip"
        found = open_archive(str(path), build.build(path, release), tmp_path)
        assert found.double
        suites[release] = found.suite.name
    assert [release for release, suite in suites.items() if suite == "trixie"] == ["8.0.0"]
    assert set(suites.values()) == {"bookworm", "trixie"}


def test_releases_differ_in_code_migrations_and_compiled_assets(tmp_path: Path) -> None:
    files = {release: build.contents(release) for release in build.RELEASES}
    migrations = {
        release: {name for name in found if name.startswith("app/migrations/")} for release, found in files.items()
    }
    assert migrations["5.2.12"] - migrations["5.2.11"] == {"app/migrations/Version20250610000000.php"}
    assert len(migrations["6.0.10"] - migrations["5.2.12"]) == 2
    assert len(migrations["5.2.12"] - migrations["6.0.10"]) == 1, "executed, but not registered any more"
    assert len({found["media/css/app.css"] for found in files.values()}) == len(build.RELEASES)
    assert not any(build.DELETED in found for found in files.values())


def test_each_release_has_its_own_time_of_files(tmp_path: Path) -> None:
    """PHP recognises the compiled code of a file by the file's time."""
    times = set()
    for release in build.RELEASES:
        build.build(tmp_path / "one.zip", release)
        times |= {entry.date_time for entry in zipfile.ZipFile(tmp_path / "one.zip").infolist()}
    assert len(times) == len(build.RELEASES)


def test_the_updaters_package_lists_the_deleted_files(tmp_path: Path) -> None:
    build.build(tmp_path / "update.zip", "6.0.10", update=True)
    update = zipfile.ZipFile(tmp_path / "update.zip")
    assert json.loads(update.read("deleted_files.txt")) == ["app/migrations/Version20230901000000.php"]
    assert "app/migrations/Version20230901000000.php" not in update.namelist()
