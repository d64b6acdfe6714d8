"""How the tool ends the jobs that run in a tenant."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl import jobs

JOB = """\
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM", flush=True) or sys.exit())
print("began", flush=True)
time.sleep(float(sys.argv[2]))
print("ended", flush=True)
"""
SENDER, IMPORT = "mautic:campaigns:trigger", "mautic:import"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, float], subprocess.Popen[str]]]:
    """Starts a console command that ends by itself after so many seconds, and says whether it got SIGTERM."""
    console = tmp_path / "mautic/bin/console"
    console.parent.mkdir(parents=True)
    console.write_text(JOB)
    started: list[subprocess.Popen[str]] = []

    def begin(command: str, seconds: float) -> subprocess.Popen[str]:
        argv = [sys.executable, str(console), command, str(seconds)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def end(*processes: subprocess.Popen[str], batch: float = 60) -> list[str]:
    """End these jobs only, and return what they said."""

    def running() -> dict[int, bytes]:
        return {one.pid: Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in processes if one.poll() is None}

    jobs._end(running, 60, batch)
    return [one.communicate()[0].strip() for one in processes]


def test_a_job_that_sends_ends_its_batch_and_an_import_postpones_itself_at_once(
    start: Callable[[str, float], subprocess.Popen[str]],
) -> None:
    """Mautic never sends to the rest of a batch that was cut, and an import may take hours."""
    assert end(start(SENDER, 0.5), start(IMPORT, 60)) == ["ended", "SIGTERM"]


def test_a_job_that_sends_for_long_is_stopped(start: Callable[[str, float], subprocess.Popen[str]]) -> None:
    assert end(start(SENDER, 60), batch=0.1) == ["SIGTERM"]


def test_a_job_that_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done"], stdout=-1) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        jobs._end(lambda: {} if deaf.poll() is not None else {deaf.pid: b"/mautic/bin/console"}, 0.1, 0)
        assert deaf.returncode == -9
