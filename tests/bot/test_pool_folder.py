"""What a server left in a pool on this machine is found without asking it twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.lxd.pool_folder import of_pool, remove_snapshots


def test_a_pool_elsewhere_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_pool("https://10.0.0.5:8443", "pool") is None
    assert of_pool(str(tmp_path / "unix.socket"), "pool") is None
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert of_pool("/var/lib/lxd/unix.socket", "pool") is None


def test_what_is_known_is_asked_after_what_is_there_was_listed(tmp_path: Path) -> None:
    """One that begins meanwhile is known before it is there."""
    folder = tmp_path / "containers-snapshots" / "p_c"

    def asked() -> set[str]:
        (folder / "new").mkdir()
        return set()

    assert not remove_snapshots(tmp_path, "p_c", asked), "nothing is there, so that nothing is asked"
    (folder / "old").mkdir(parents=True)
    assert not remove_snapshots(tmp_path, "p_c", asked), "no subvolumes"
    assert {one.name for one in folder.iterdir()} == {"old", "new"}
