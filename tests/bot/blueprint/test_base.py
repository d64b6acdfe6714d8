"""Debian's images in their cache: put together once, whoever needs them first."""

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
    """The images that are put together, by their suite."""
    told: list[str] = []

    def build(suite: Suite, cache: Path, progress: Callable[[str], None], day: str = "") -> None:
        told.append(suite.name)
        for kind in ("tenant", "edge"):
            (cache / f"{base._alias(kind, suite)}{day}.tar.zst").write_bytes(f"{kind} {len(told)}".encode())

    monkeypatch.setattr(base, "_build", build)
    return told


def test_they_are_put_together_once_and_imported_from_the_cache(tmp_path: Path, built: list[str]) -> None:
    told: list[str] = []
    lxd = SimulatedLxd()
    for _ in range(2):
        base.prepare(tmp_path, told.append)
        assert lxd.image(base.ensure_base(lxd, "edge", tmp_path, told.append))
    assert (built, told) == (["bookworm"], ["importing the edge image"])


def test_one_with_older_packages_is_put_together_anew_and_kept_beside(tmp_path: Path, built: list[str]) -> None:
    lxd = SimulatedLxd()
    first = base.ensure_base(lxd, "tenant", tmp_path, print)
    (old,) = tmp_path.glob("*-tenant-*.tar.zst")
    os.utime(old, (10_000, 10_000))
    assert base.ensure_base(lxd, "tenant", tmp_path, print, FIRST_SUITE, newer=5000.0) == first
    newer = base.ensure_base(lxd, "tenant", tmp_path, print, FIRST_SUITE, newer=10_001.0)
    assert newer.startswith(f"{first}-2")
    assert base.ensure_base(lxd, "tenant", tmp_path, print) == newer, "who has no wish gets the newest"
    assert built == ["bookworm", "bookworm"]
    assert base.ensure_base(lxd, "tenant", tmp_path, print, SUITES[1]) not in (first, newer)


def test_what_debian_is_put_together_with_is_installed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a server that was there before the bot, or is on another machine, it is missing."""
    asked: list[object] = []
    monkeypatch.setattr(tools, "provide", lambda wanted, _: asked.append(wanted))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(base.BaseError, match="install debootstrap and zstd"):
        base.ensure_base(SimulatedLxd(), "edge", tmp_path, print)
    assert asked == [tools.BUILDS]


def test_it_is_written_down_which_versions_the_security_archive_has_of_what_is_installed(tmp_path: Path) -> None:
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


def test_what_installs_debian_is_told_nothing_of_our_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make` says where ours lays what it compiles: Debian's laid it there too, in every tenant."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/somewhere/.venv/pycache")
    base._run(["sh", "-c", f"env > {tmp_path}/told"])
    told = (tmp_path / "told").read_text()
    assert "PATH=" in told
    assert "PYTHON" not in told
