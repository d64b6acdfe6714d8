"""`make up` and `make down`: what they take for the bot's own processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bot import bring_up
from tests.support.bot import settings_in, until


def running(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    """Start a process that the bot's pid files name."""
    process = subprocess.Popen(argv, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL)
    for name in ("ready", "honcho.pid"):
        (folder / name).write_text(str(process.pid))
    return process


def test_a_stranger_that_has_the_pid_after_a_reboot_is_left_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(tmp_path, "sleep", "60") as stranger:
        assert not bring_up._running(settings)
        bring_up._stop_processes(settings)
        assert stranger.poll() is None
        stranger.kill()


def test_a_bot_that_runs_as_a_service_is_seen_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAUTIC_OPS_BOT__STATE", str(tmp_path))
    monkeypatch.setenv("MAUTIC_OPS_LXD__ENDPOINT", "simulated")
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "__init__.py").touch()
    (tmp_path / "bot" / "__main__.py").write_text("import time; time.sleep(60)")
    with running(tmp_path, sys.executable, "-m", "bot", "run") as service:
        (tmp_path / "honcho.pid").unlink()
        until(lambda: bring_up._running(settings_in(tmp_path)))
        assert bring_up.up() == 0
        assert "It runs already." in capsys.readouterr().out
        assert bring_up.down() == 0
        with pytest.raises(bring_up.CannotBringUp, match="a service"):
            bring_up.clean_lab()
        assert service.poll() is None
        assert bring_up._running(settings_in(tmp_path))
        service.kill()


def test_its_own_processes_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("bot: touch started; exec sleep 60")
    with running(tmp_path, sys.executable, "-m", "honcho", "start") as process:
        until((tmp_path / "started").exists)
        bring_up._stop_processes(settings_in(tmp_path))
        assert process.wait(30)
    assert not (tmp_path / "honcho.pid").exists()
