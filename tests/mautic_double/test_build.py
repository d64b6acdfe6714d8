"""The double's archive: of the release zip's layout, the same wherever it is built, and honest about what it is."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.mautic_double import build


@pytest.fixture
def archive(tmp_path: Path) -> zipfile.ZipFile:
    build.build(tmp_path / "double.zip")
    return zipfile.ZipFile(tmp_path / "double.zip")


def test_it_has_the_layout_of_a_release(archive: zipfile.ZipFile) -> None:
    names = set(archive.namelist())
    assert {"index.php", ".env", ".htaccess", "bin/console", "composer.json", "config/.gitkeep"} <= names
    assert {"media/files/", "media/images/", "plugins/", "themes/", "translations/", "var/"} <= names
    assert any(name.startswith("app/migrations/Version") for name in names)
    assert any(name.startswith("vendor/composer/") for name in names)
    assert not any(name.startswith("var/logs") for name in names), "upstream's has none either"


def test_the_console_can_be_executed(archive: zipfile.ZipFile) -> None:
    assert archive.getinfo("bin/console").external_attr >> 16 & 0o111 == 0o111


def test_it_says_that_it_is_a_double(archive: zipfile.ZipFile) -> None:
    metadata = json.loads(archive.read("app/release_metadata.json"))
    assert metadata["version"].endswith("+double")
    assert metadata["install_source"] == "double"


def test_the_same_tree_gives_the_same_sha256_and_prints_it(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, build.__file__, str(tmp_path / "other.zip")], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == build.build(tmp_path / "double.zip")
