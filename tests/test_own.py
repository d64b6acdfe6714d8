"""The suite reads no configuration of the person who runs it, and a killed run leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import lab, own
from tests.support.bot import until

FREEZER = Path("/sys/fs/cgroup/freezer")
POISON = {
    "MAUTIC_OPS_BOT__STATE": "/nowhere",
    "MAUTIC_OPS_NO__SUCH": "1",
    "MAUTIC_OPS_CONFIG": "/nowhere.toml",
    "SLACK_BOT_TOKEN": "xoxb-production",
    "SLACK_APP_TOKEN": "xapp-production",
    "SLACK_SIGNING_SECRET": "production",
    "LXD_DIR": "/nowhere",
    "LXD_SOCKET": "/nowhere/unix.socket",
    "INCUS_SOCKET": "/nowhere/unix.socket",
    "WORKSPACE_PORT": "1",
}


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an invalid configuration and an unusable state."""
    folder = tmp_path_factory.mktemp("production") / "mautic-ops"
    folder.mkdir()
    for name in ("bot", "commands", "schedules", "templates", "docs", "tests"):
        shutil.copytree(own.ROOT / name, folder / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    for name in ("pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "Procfile"):
        shutil.copy(own.ROOT / name, folder)
    (folder / "mautic-ops.toml").write_text("[nonsense]\n")
    (folder / ".state").write_text("not a folder")
    return folder


@pytest.mark.parametrize("more", [(), ("-n", "1")], ids=["alone", "with workers"])
def test_a_local_configuration_and_environment_do_not_affect_the_suite(production: Path, more: tuple[str, ...]) -> None:
    """Neither the settings in the process of the tests, nor those in the processes of a bot and a workspace."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", own.MARK)}
    bot = "tests/bot/test_program.py::test_a_bot_notes_whose_state_it_is_and_leaves_in_peace"
    tests = ["tests/bot/test_settings.py", "tests/bot/test_health.py", bot]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(more or ("-n", "0")), *tests],
        cwd=production,
        env=environment | POISON,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("more", [("-n", "0"), ("-n", "1")], ids=["alone", "with workers"])
def test_ignored_files_are_ignored(production: Path, more: tuple[str, ...]) -> None:
    """Workers ignore them too, although they have left the checkout when they look for tests."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", own.MARK)}
    words = [*more, "-q", "-p", "no:cacheprovider", "--ignore", "tests/schedules/test_year.py", "tests/schedules", "-k"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "test_year"],
        cwd=production,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, ran.stdout


def test_only_processes_of_a_killed_run_are_ended(tmp_path: Path) -> None:
    """One of two runs is killed; both have a child process that has started another one."""
    program = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    runs = []
    for _ in range(2):
        environment = {name: value for name, value in os.environ.items() if name != own.MARK}
        run = "import subprocess, sys, time; from tests.support import own; own.keep_to_it();"
        run += "subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(600)"
        runs.append(subprocess.Popen([sys.executable, "-c", run, program], env=environment, cwd=own.ROOT))
    try:
        until(lambda: all(len(of(run.pid)) == 2 for run in runs))
        assert own.end_killed_runs() == []
        killed, lives = runs
        left = of(killed.pid)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert set(own.end_killed_runs()) == left
        assert len(of(lives.pid)) == 2
    finally:
        for run in runs:
            for pid in of(run.pid):
                os.kill(pid, signal.SIGKILL)
            run.kill()
            run.wait()


def test_a_process_of_a_run_in_a_container_is_not_ended() -> None:
    """The pid in its mark belongs to another process outside the container, or to none."""
    # Only the inner process has the mark.
    inner = f"{own.MARK}={2**22}:1 exec sleep 600"
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "sh", "-c", inner]
    environment = {name: value for name, value in os.environ.items() if name != own.MARK}
    container = subprocess.Popen(command, env=environment)
    try:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        until(children.read_text)
        assert own.end_killed_runs() == []
        assert container.poll() is None
    finally:
        container.kill()
        container.wait()


def of(pid: int) -> set[int]:
    """Return the pids of the processes that belong to the run of a process."""
    return {one for one, run in own._marked().items() if run.partition(":")[0] == str(pid)}


def test_a_run_belongs_to_the_make_that_started_it(tmp_path: Path) -> None:
    """Killing `make` does not end pytest, so the next run ends it."""
    makefile = (own.ROOT / "Makefile").read_text().replace("$(PYTHON) -m tests.support.packages $(REQUIRED)", "true")
    rule = makefile.partition("\ntest: packages\n")
    rest = rule[2].partition("\n\n")[2]
    (tmp_path / "Makefile").write_text(f"{rule[0]}\ntest: packages\n\tsleep 600; true\n\n{rest}")
    shutil.copytree(own.ROOT / "bot", tmp_path / "bot", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", ".venv/bin/uv", ".venv/whole"):
        (tmp_path / name).touch()
    environment = {name: value for name, value in os.environ.items() if name != own.MARK}
    make = subprocess.Popen(["make", "test"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    until(lambda: len(of(make.pid)) == 2)
    assert own.end_killed_runs() == []
    left = of(make.pid)
    make.kill()
    make.wait()
    assert set(own.end_killed_runs()) == left


@pytest.mark.skipif(not FREEZER.is_dir() or os.geteuid() != 0, reason="needs control groups of version 1, and root")
def test_a_frozen_process_of_the_lab_is_ended() -> None:
    group = FREEZER / f"mautic-ops-test-{os.getpid()}"
    group.mkdir()
    try:
        asleep = subprocess.Popen(["sleep", "600"])
        (group / "cgroup.procs").write_text(str(asleep.pid))
        (group / "freezer.state").write_text("FROZEN")
        lab.end([asleep.pid])
        assert asleep.poll() is not None
    finally:
        (group / "freezer.state").write_text("THAWED")
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
