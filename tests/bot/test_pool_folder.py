"""The folder of a pool on this machine, from which snapshots that its server does not know are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.lxd.pool_folder import of_pool, remove_snapshots


def test_a_pool_out_of_reach_has_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_pool("https://10.0.0.5:8443", "pool") is None
    assert of_pool(str(tmp_path / "unix.socket"), "pool") is None
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert of_pool("/var/lib/lxd/unix.socket", "pool") is None


def test_folders_that_are_no_subvolumes_are_kept(tmp_path: Path) -> None:
    """Also one that appears while the server is asked which snapshots it knows."""
    folder = tmp_path / "containers-snapshots" / "p_c"

    def asked() -> set[str]:
        (folder / "new").mkdir()
        return set()

    assert not remove_snapshots(tmp_path, "p_c", asked), "nothing is there, so the server is not asked"
    (folder / "old").mkdir(parents=True)
    assert not remove_snapshots(tmp_path, "p_c", asked), "they are no subvolumes"
    assert {one.name for one in folder.iterdir()} == {"old", "new"}
