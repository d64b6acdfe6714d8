"""Which of Mautic's jobs are told to end when a container stops, and which are waited for."""

from __future__ import annotations

import signal

import pytest

from bot.guest.blueprint.mautic_look import drain

CONSOLE = "php8.2\0/var/www/mautic/bin/console\0"


@pytest.mark.parametrize(
    ("command", "begun", "after"),
    [
        (f"{CONSOLE}mautic:import\0-n", False, 0.0),
        (f"timeout\0--kill-after=60\0007200\0{CONSOLE}mautic:import\0-n", False, 0.0),
        (f"{CONSOLE}mautic:campaigns:trigger\0-n", False, drain.UNDISTURBED),
        (f"{CONSOLE}messenger:consume\0email\0hit", False, None),
        ("/bin/bash\0/usr/local/bin/mautic-cron\00050\0007200\0mautic:import", False, 0.0),
        ("/bin/bash\0/usr/local/bin/mautic-cron\00050\0007200\0mautic:import", True, drain.NEVER),
        ("/usr/sbin/mariadbd", True, None),
        ("/usr/bin/python3\0-ISB\0/usr/local/bin/mautic-drain", False, None),
    ],
)
def test_senders_are_left_to_finish_and_other_jobs_end_at_once(command: str, begun: bool, after: float | None) -> None:
    assert drain.told_after(command.encode(), begun=begun) == after


def test_each_job_is_told_once_and_all_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    seen = iter([{7: 0.0, 8: drain.NEVER}, {7: 0.0, 8: drain.NEVER}, {8: drain.NEVER}, {}])
    monkeypatch.setattr(drain, "jobs", lambda: next(seen))
    monkeypatch.setattr(drain.os, "kill", lambda *words: told.append(words))
    drain.drain()
    assert told == [(7, signal.SIGTERM)]
    assert next(seen, None) is None


def test_waiting_ends_although_a_job_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    told: list[int] = []
    monkeypatch.setattr(drain.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(drain, "jobs", lambda: {7: 0.0, 9: drain.UNDISTURBED - 10})
    monkeypatch.setattr(drain.os, "kill", lambda pid, _: told.append(pid))
    drain.drain()
    assert told == [7, 9]
