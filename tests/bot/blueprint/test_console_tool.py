"""How the tool runs one of Mautic's commands that a person asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl import console
from bot.guest.blueprint.mautic_ctl.system import CtlError
from tests.support.workspace import eventually

SENDER, OTHER = "mautic:campaigns:trigger", "mautic:segments:update"


@pytest.fixture
def tenant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tenant's folder, in which each command writes `ended` after two seconds; people wait for half a second."""
    # The commands run as www-data, which cannot see into pytest's folders.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        (folder / "bin/console").write_text(f"echo begins; sleep 2; echo ended >{folder}/ended\n")
        (folder / "crontab").write_text(
            f"*/5 * * * * www-data mautic-cron 50 60 {SENDER}\n*/5 * * * * www-data mautic-cron 50 60 {OTHER}\n"
        )
        folder.chmod(0o777)
        for setting, value in (("MAUTIC", folder), ("BEATS", folder), ("CRONTAB", folder / "crontab")):
            monkeypatch.setattr(console, setting, value)
        for marker in ("CLOSED", "OFF"):
            monkeypatch.setattr(console, marker, folder / marker)
        monkeypatch.setattr(console, "PROGRAM", "bash")
        monkeypatch.setattr(console, "known_secrets", set)
        yield folder


def wait_for(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(console, "SECONDS", seconds)
    monkeypatch.setattr(console, "SPARE", 0.0)


def test_a_sending_command_that_takes_long_goes_on_and_holds_its_jobs_lock(
    tenant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mautic logs a batch of contacts before it sends to them: those of a killed command would get nothing."""
    wait_for(monkeypatch, 0.5)
    with pytest.raises(CtlError, match=r"takes longer than 0\.5 seconds\. It goes on by itself"):
        console.run_console({"words": [SENDER]})
    with pytest.raises(CtlError, match="runs already"):
        console.run_console({"words": [SENDER]})
    eventually((tenant / "ended").exists)


def test_another_command_that_takes_long_is_stopped(tenant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SECONDS", 0.5)
    with pytest.raises(CtlError, match=r"did not end within 0\.5 seconds and was stopped"):
        console.run_console({"words": [OTHER]})
    # Nothing is left of it that would hold the lock.
    with pytest.raises(CtlError, match="did not end"):
        console.run_console({"words": [OTHER]})
    assert not (tenant / "ended").exists()


def test_a_command_that_ends_in_time_answers_with_what_it_printed(tenant: Path) -> None:
    assert console.run_console({"words": [SENDER]}) == {"code": 0, "output": "begins"}
