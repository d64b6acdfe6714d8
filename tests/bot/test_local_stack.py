"""`make up` and `make down`: which processes count as the bot's own, what starts, and what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot import local_stack
from bot.guest.blueprint.archive import ArchiveError
from bot.lxd.gateway import LxdGateway
from bot.lxd.local import server as local_lxd
from bot.program import run
from bot.settings import InvalidSettings, ReleaseSettings, Settings, load
from bot.workspace.people import TEAM
from tests.bot.blueprint.test_archive import released, zipped
from tests.support import demo
from tests.support.bot import settings_in, until
from tests.support.simulated_lxd import SimulatedLxd


def running(folder: Path, *argv: str, names: tuple[str, ...] = ("ready", "honcho.pid")) -> subprocess.Popen[bytes]:
    """Start a process that the bot's pid files name."""
    process = subprocess.Popen(argv, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL)
    for name in names:
        (folder / name).write_text(str(process.pid))
    return process


@contextmanager
def a_bot(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that looks like a bot that `make up` started."""
    (folder / "bot").mkdir()
    (folder / "bot" / "__init__.py").touch()
    (folder / "bot" / "__main__.py").write_text("import time; time.sleep(60)")
    with running(folder, sys.executable, "-m", "bot", "run") as process:
        try:
            until(lambda: local_stack._running(settings_in(folder)))
            yield process
        finally:
            process.kill()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a shell without tokens; the test fails if a bot is started in it."""
    monkeypatch.setattr(local_stack, "_start", lambda *_: pytest.fail("a bot was started"))
    monkeypatch.setenv("MAUTIC_OPS_BOT__STATE", str(tmp_path))
    monkeypatch.setenv("MAUTIC_OPS_LXD__ENDPOINT", "simulated")
    return monkeypatch


def test_another_process_that_has_the_pid_after_a_reboot_is_left_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(tmp_path, "sleep", "60") as stranger:
        assert not local_stack._running(settings)
        local_stack._stop_processes(settings)
        assert stranger.poll() is None
        stranger.kill()


def test_a_bot_that_runs_as_a_service_is_recognised_and_left_alone(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_bot(tmp_path) as service:
        (tmp_path / "honcho.pid").unlink()
        assert local_stack.up() == 0
        assert "It runs already." in capsys.readouterr().out
        assert local_stack.down() == 0
        with pytest.raises(local_stack.CannotBringUp, match="a service"):
            local_stack.clean_lab()
        assert service.poll() is None
        assert local_stack._running(settings_in(tmp_path))


def test_up_reports_what_is_running_and_not_what_the_settings_would_start(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_bot(tmp_path):
        (tmp_path / "team").write_text(TEAM)
        assert local_stack.up() == 0
        assert "It runs already. Local workspace: http://" in capsys.readouterr().out
        environment.setenv("SLACK_BOT_TOKEN", "xoxb-1")
        environment.setenv("SLACK_APP_TOKEN", "xapp-1")
        with pytest.raises(local_stack.CannotBringUp, match=r"The local workspace runs here; `make down` ends it"):
            local_stack.up()
        (tmp_path / "team").write_text("T0AGENCY")
        assert local_stack.up() == 0
        said = capsys.readouterr().out
        assert "It runs already. The bot is connected to Slack; digest and incidents wait for slack.channel." in said
        environment.setenv("MAUTIC_OPS_SLACK__CHANNEL", "C0OPS")
        assert local_stack.up() == 0
        assert "It runs already. The bot is connected to Slack.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "restarted"),
    [({}, False), ({"MAUTIC_OPS_BOT__WORKERS": "3"}, True), ({"WORKSPACE_PORT": "9000"}, True)],
)
def test_a_bot_whose_settings_have_changed_is_restarted(
    tmp_path: Path, environment: pytest.MonkeyPatch, change: dict[str, str], restarted: bool
) -> None:
    started: list[list[str]] = []
    environment.setattr(local_stack, "_start", lambda _, __, processes: started.append(processes))
    assert local_stack.up() == 0
    assert started == [["bot", "workspace"]]
    (tmp_path / "team").write_text(TEAM)
    (tmp_path / "Procfile").write_text("bot: exec sleep 60")
    with (
        a_bot(tmp_path),
        running(tmp_path, sys.executable, "-m", "honcho", "start", names=("honcho.pid",)) as honcho,
    ):
        until(lambda: local_stack._pid(tmp_path / "honcho.pid", "honcho"))
        # A real bot ends with the honcho that started it; here it is not honcho's child.
        environment.setattr(local_stack, "_stop_processes", lambda _: (tmp_path / "ready").unlink() or honcho.kill())
        for name, value in change.items():
            environment.setenv(name, value)
        assert local_stack.up() == 0
        honcho.kill()
    assert len(started) == 1 + restarted


def test_up_repairs_lxd_under_a_running_bot(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brought: list[str] = []
    environment.delenv("MAUTIC_OPS_LXD__ENDPOINT")
    environment.setattr(local_stack, "_prepare", lambda *_: brought.append("LXD"))
    with a_bot(tmp_path):
        assert local_stack.up() == 0
        assert brought == ["LXD"]
        assert "It runs already." in capsys.readouterr().out


def test_the_state_of_a_real_team_is_not_opened_to_the_local_workspace(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team").write_text("T0AGENCY")
    with pytest.raises(local_stack.CannotBringUp, match=r"belongs to the Slack team T0AGENCY"):
        local_stack.up()
    assert local_stack.prepare() == 0
    assert not (tmp_path / "honcho.pid").exists()


def test_a_new_state_folder_is_accessible_to_its_own_user_only(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAUTIC_OPS_BOT__STATE", str(tmp_path / "state"))
    assert local_stack.prepare() == 0
    assert oct((tmp_path / "state").stat().st_mode & 0o777) == "0o700"


def test_the_bots_own_processes_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("bot: touch started; exec sleep 60")
    with running(tmp_path, sys.executable, "-m", "honcho", "start") as process:
        until((tmp_path / "started").exists)
        local_stack._stop_processes(settings_in(tmp_path))
        assert process.wait(30)
    assert not (tmp_path / "honcho.pid").exists()


def test_of_two_simultaneous_ups_one_starts_the_bot_and_the_other_reports_that_it_runs(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on, started, said = list[str](), threading.Event(), threading.Event(), list[str]()

    def start(*_: object) -> None:
        begun.append("a bot")
        assert go_on.wait(30)
        started.set()

    def waits() -> bool:
        said.append(capsys.readouterr().out)
        return "Another `make up` or `make down` is under way here; waiting for its end …" in "".join(said)

    environment.setattr(local_stack, "_start", start)
    environment.setattr(local_stack, "_running", lambda _: started.is_set())
    with ThreadPoolExecutor(2) as both:
        first = both.submit(local_stack.up)
        until(lambda: bool(begun))
        second = both.submit(local_stack.up)
        until(lambda: waits() or len(begun) == 2)
        go_on.set()
    assert (first.result(), second.result(), begun) == (0, 0, ["a bot"])
    assert "It runs already." in capsys.readouterr().out


def a_honcho(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a honcho like `make up`, but of a process that only sleeps.

    Waits until honcho has started that process: if ended earlier, honcho would leave it behind.
    """
    folder.mkdir()
    (folder / "Procfile").write_text("bot: exec sleep 60")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start"],
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,
            stdout=output,
        )
    until(lambda: "started (pid=" in log.read_text())
    return process


def test_a_failed_start_leaves_the_processes_and_pid_file_of_another_start_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = a_honcho(tmp_path / "other")
    monkeypatch.setattr(local_stack, "ROOT", tmp_path)
    (tmp_path / "Procfile").write_text(f"bot: sleep 0.3; echo -n {other.pid} > honcho.pid; exit 1")
    try:
        with pytest.raises(local_stack.CannotBringUp, match="The bot did not start"):
            local_stack._start(settings_in(tmp_path), dict(os.environ), ["bot"])
        assert other.poll() is None
        assert (tmp_path / "honcho.pid").read_text() == str(other.pid)
        local_stack._stop_processes(settings_in(tmp_path))
        assert other.wait(30)
        assert not (tmp_path / "honcho.pid").exists()
    finally:
        other.terminate()
        other.wait(30)


def test_the_processes_of_an_interrupted_start_are_stopped_before_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = a_honcho(tmp_path / "left")
    (tmp_path / "honcho.pid").write_text(str(left.pid))
    monkeypatch.setattr(local_stack, "ROOT", tmp_path)
    (tmp_path / "Procfile").write_text("bot: exit 1")
    try:
        with pytest.raises(local_stack.CannotBringUp, match="The bot did not start"):
            local_stack._start(settings_in(tmp_path), dict(os.environ), ["bot"])
        assert left.wait(30)
    finally:
        left.terminate()
        left.wait(30)


def test_down_reports_processes_that_still_run_although_no_pid_file_names_them(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setattr(local_stack, "ROOT", tmp_path / "checkout")
    left = a_honcho(tmp_path / "checkout", WORKSPACE_STATE=str(tmp_path / "workspace"))
    # A process of another checkout, whose environment names the same state folder.
    stranger = a_honcho(tmp_path / "other", WORKSPACE_STATE=str(tmp_path / "workspace"))
    try:
        assert local_stack.down() == 1
        said = re.fullmatch(r"Some of it still runs; `kill ([\d ]+)` ends it\.\n", capsys.readouterr().out)
        assert said
        assert str(left.pid) in said[1].split()
        assert str(stranger.pid) not in said[1].split()
        with pytest.raises(local_stack.CannotBringUp, match=f"Some of it still runs; `kill {left.pid} "):
            local_stack.clean_lab()
        left.terminate()
        left.wait(30)
        assert local_stack.down() == 0
        assert capsys.readouterr().out == ""
    finally:
        for one in (left, stranger):
            one.terminate()
            one.wait(30)


ONE_MORE = '[policies.{}]\nask = ["approver"]\napprove = ["approver"]\nhours = 24\napprovals = {}\nstep_up = "{}"'


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (ONE_MORE.format("migrat", 2, ""), "policies.migrat guards nothing"),
        (ONE_MORE.format("list", 0, ""), "policies.list guards nothing"),
        (ONE_MORE.format("console", 2, ""), "policies.console: it is not approved, only `ask` counts"),
        (ONE_MORE.format("logs", 0, "typed-name"), "policies.logs: it is not approved, only `ask` counts"),
    ],
)
def test_a_policy_without_effect_is_refused_before_anything_starts(
    tmp_path: Path, environment: pytest.MonkeyPatch, policy: str, why: str
) -> None:
    (tmp_path / "own.toml").write_text(policy)
    environment.setenv("MAUTIC_OPS_CONFIG", str(tmp_path / "own.toml"))
    for begin in (local_stack.up, local_stack.prepare, run):
        with pytest.raises(InvalidSettings, match=why):
            begin()


def test_ask_only_names_every_policy_of_which_only_ask_counts(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    sources = [*(local_stack.ROOT / "commands").glob("*.py"), *(local_stack.ROOT / "bot").rglob("*.py")]
    asked = re.compile(r'(?:refuse_to_ask|\.policy)\("([\w-]+)"')
    assert {name for path in sources for name in asked.findall(path.read_text())} == local_stack.ASK_ONLY
    (tmp_path / "own.toml").write_text("\n".join(ONE_MORE.format(name, 0, "") for name in local_stack.ASK_ONLY))
    environment.setenv("MAUTIC_OPS_CONFIG", str(tmp_path / "own.toml"))
    assert local_stack.prepare() == 0


SERVERS = '[servers.berlin]\nendpoint = "https://berlin:8443"\n[lxd]\nendpoint = "{}"'


@pytest.mark.parametrize(("first", "cleaned"), [("", "local"), ("https://first:8443", "https://first:8443")])
def test_clean_lab_cleans_every_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, cleaned: str
) -> None:
    gone: list[str] = []
    monkeypatch.setattr(LxdGateway, "remove_project", lambda self: gone.append(self.endpoint))
    monkeypatch.setattr(local_lxd, "remove", lambda *_, **__: gone.append("local"))
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "own.toml").write_text(SERVERS.format(first))
    monkeypatch.setenv("MAUTIC_OPS_CONFIG", str(tmp_path / "own.toml"))
    monkeypatch.setenv("MAUTIC_OPS_BOT__STATE", str(state))
    assert local_stack.clean_lab() == 0
    assert sorted(gone) == sorted(["https://berlin:8443", cleaned])
    assert not state.exists()


def test_the_demo_refuses_to_run_where_a_real_team_would_see_it(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    local_stack.refuse_a_real_team()
    (tmp_path / "team").write_text(TEAM)
    local_stack.refuse_a_real_team()
    environment.setenv("SLACK_BOT_TOKEN", "xoxb-1")
    with pytest.raises(local_stack.CannotBringUp, match="for the local workspace alone"):
        demo.main()
    environment.delenv("SLACK_BOT_TOKEN")
    (tmp_path / "team").write_text("T0AGENCY")
    with pytest.raises(
        local_stack.CannotBringUp, match=r"belongs to the Slack team T0AGENCY, .* for the local workspace"
    ):
        demo.main()


def test_tenants_may_reach_the_edges_of_all_hosts_and_the_addresses_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[lxd]\nreachable = ["10.9.0.25:25"]\n[edge]\nlisten = "10.0.0.5"\n'
        '[servers.far]\nendpoint = "/far"\nlisten = "10.0.0.6"\n[servers.near]\nendpoint = "/near"\n'
    )
    settings = load(tmp_path / "own.toml", {})
    cluster = SimulatedLxd(members=["node1"])
    found = local_stack._ways(settings, {"local": SimulatedLxd(), "far": SimulatedLxd(), "near": cluster})
    edges = [f"{address}:{port}" for address in ("10.0.0.5", "10.0.0.6") for port in (80, 443)]
    assert found == ["10.9.0.25:25", *edges]


def built(settings: Settings, monkeypatch: pytest.MonkeyPatch, version: str = "") -> tuple[str, list[str]]:
    """Return the version of Mautic that a blueprint would be built of, and the progress messages."""
    told: list[str] = []
    monkeypatch.setattr(local_stack, "build", lambda lxd, archive, **_: archive)
    archive: Any = local_stack.build_blueprint(settings, SimulatedLxd(), told.append, version)
    return archive.version, told


def with_releases(folder: Path, *versions: str) -> Settings:
    """Return settings that name these releases; 8 needs a newer PHP, 9 one that no blueprint has."""
    found = {}
    for version in versions:
        wanted = {"8": ("8.4.0", "8.5.99"), "9": ("8.6.0", "8.7.99")}.get(version[0])
        php = {"minimum_php_version": wanted[0], "maximum_php_version": wanted[1]} if wanted else {}
        file = zipped(folder / f"{version}.zip", released(version=version, **php))
        found[version] = ReleaseSettings(str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    return replace(settings_in(folder / "state"), releases=found)


def test_a_blueprint_is_built_of_its_own_archive_or_of_the_newest_release_that_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built(settings_in(tmp_path / "state"), monkeypatch)[0] == "5.2.12+double"
    settings = with_releases(tmp_path, "5.2.12", "6.0.10", "8.0.0", "9.0.0")
    version, told = built(settings, monkeypatch)
    assert version == "8.0.0", "it runs on a newer Debian"
    assert told == ["Mautic 9.0.0 runs on PHP 8.6.0 to 8.7.99; blueprints have 8.2 or 8.4."]
    assert built(settings, monkeypatch, "5.2.12")[0] == "5.2.12"
    of_before = settings.releases["5.2.12"]
    blueprint = replace(settings.blueprint, archive=of_before.archive, sha256=of_before.sha256)
    assert built(replace(settings, blueprint=blueprint), monkeypatch)[0] == "5.2.12"
    with pytest.raises(ArchiveError, match="no archive at"):
        built(replace(settings, blueprint=replace(blueprint, archive="/nowhere.zip")), monkeypatch)
    with pytest.raises(local_stack.CannotBringUp, match=r"no \[releases.\"10\"\] in the settings; known: 9.0.0, 8.0.0"):
        built(settings, monkeypatch, "10")
