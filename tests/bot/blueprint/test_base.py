"""Debian's images are built once, by the first operation that needs them, and then come from the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.guest.blueprint import base
from bot.guest.blueprint.recipe import FIRST_SUITE, SUITES, Suite
from bot.lxd import packages as tools
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The suites of the images that were built, in order."""
    told: list[str] = []

    def build(suite: Suite, cache: Path, progress: Callable[[str], None], day: str = "") -> None:
        told.append(suite.name)
        for kind in ("tenant", "edge"):
            (cache / f"{base._alias(kind, suite)}{day}.tar.zst").write_bytes(f"{kind} {len(told)}".encode())

    monkeypatch.setattr(base, "_build", build)
    return told


def test_images_are_built_once_and_imported_from_the_cache(tmp_path: Path, built: list[str]) -> None:
    told: list[str] = []
    lxd = SimulatedLxd()
    for _ in range(2):
        base.prepare(tmp_path, told.append)
        assert lxd.image(base.ensure_base(lxd, "edge", tmp_path, told.append))
    assert (built, told) == (["bookworm"], ["importing the edge image"])


def test_a_build_with_newer_packages_is_kept_beside_the_older_image(tmp_path: Path, built: list[str]) -> None:
    lxd = SimulatedLxd()
    first = base.ensure_base(lxd, "tenant", tmp_path, print)
    (old,) = tmp_path.glob("*-tenant-*.tar.zst")
    os.utime(old, (10_000, 10_000))
    assert base.ensure_base(lxd, "tenant", tmp_path, print, FIRST_SUITE, newer=5000.0) == first
    newer = base.ensure_base(lxd, "tenant", tmp_path, print, FIRST_SUITE, newer=10_001.0)
    assert newer.startswith(f"{first}-2")
    assert base.ensure_base(lxd, "tenant", tmp_path, print) == newer, "without a minimum age the newest image is used"
    assert built == ["bookworm", "bookworm"]
    assert base.ensure_base(lxd, "tenant", tmp_path, print, SUITES[1]) not in (first, newer)


def test_the_programs_that_build_debian_are_installed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are missing where the LXD server was there before the bot, or is on another machine."""
    asked: list[object] = []
    monkeypatch.setattr(tools, "provide", lambda wanted, _: asked.append(wanted))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(base.BaseError, match="install debootstrap and zstd"):
        base.ensure_base(SimulatedLxd(), "edge", tmp_path, print)
    assert asked == [tools.BUILDS]


def test_an_image_records_the_security_archives_versions_of_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/apt/lists").mkdir(parents=True)
    installed = "Package: {}\nStatus: {} ok {}\nVersion: {}\n\n"
    (tmp_path / "var/lib/dpkg/status").write_text(
        installed.format("openssl", "install", "installed", "3.0.15-1")
        + installed.format("gone", "deinstall", "config-files", "1.0")
    )
    listed = "Package: {}\nArchitecture: amd64\nVersion: {}\n\n"
    lists = tmp_path / "var/lib/apt/lists"
    (lists / "mirror_debian-security_dists_bookworm-security_main_binary-amd64_Packages").write_text(
        listed.format("openssl", "3.0.17-1~deb12u1") + listed.format("gone", "2") + listed.format("other", "1")
    )
    (lists / "mirror_debian_dists_bookworm_main_binary-amd64_Packages").write_text(listed.format("openssl", "4"))
    base._note_security(tmp_path)
    assert (tmp_path / base.SECURITY_FILE).read_text() == "openssl 3.0.17-1~deb12u1\n"


def test_the_build_of_debian_does_not_inherit_python_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make` sets PYTHONPYCACHEPREFIX for the bot; Debian's Python would leave its cache there in every tenant."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/somewhere/.venv/pycache")
    base._run(["sh", "-c", f"env > {tmp_path}/told"])
    told = (tmp_path / "told").read_text()
    assert "PATH=" in told
    assert "PYTHON" not in told
