"""LXD or Incus on this machine: finding, installing, starting and stopping it, and removing it without a trace."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bot.lxd import packages
from bot.lxd.gateway import LxdGateway
from bot.lxd.local import daemon as local_daemon
from bot.lxd.local import install as local_install
from bot.lxd.local import processes as local_processes
from bot.lxd.local import remains as local_remains
from bot.lxd.local import server as local_lxd
from bot.lxd.local import shared as local_shared
from bot.lxd.packages import TOOLS
from bot.lxd.products import INCUS, LXD, PRODUCTS, Product
from bot.lxd.protocol import LxdError, LxdUnavailable
from tests.support.real_lxd import LXD_PLACE, SHARED, Place, without_lxd
from tests.support.workspace import APP_TOKEN, BOT_TOKEN, WorkspaceServer, eventually, free_port
from tests.support.world import BotProcess

NOTES = SHARED / "own"
"""The state folders of the daemons that tests started for themselves, one file each."""

IP_FREEBIND = 15
"""A socket option of Linux; Python has a name for it from 3.14 on."""


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for product in PRODUCTS:
        monkeypatch.delenv(product.folder, raising=False)
        monkeypatch.delenv(product.socket, raising=False)


@pytest.fixture
def _no_system_lxd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_install, "SYSTEM_SOCKETS", ())


@pytest.mark.usefixtures("_no_system_lxd")
class TestWhereNoneCanRun:
    def test_no_server_is_found_where_there_is_none(self, tmp_path: Path) -> None:
        assert local_lxd.find(tmp_path) is None

    def test_the_refusal_says_that_root_is_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(LxdUnavailable, match=r"only root can start one; try `make up LXD=simulated`"):
            local_lxd.up(tmp_path, print)

    def test_the_refusal_says_that_a_group_is_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "unix.socket").touch()
        monkeypatch.setattr(local_install, "SYSTEM_SOCKETS", (str(tmp_path / "unix.socket"),))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(LxdUnavailable, match="join its group"):
            local_lxd.up(tmp_path, print)

    def test_the_refusal_says_that_linux_is_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(LxdUnavailable, match="Linux only"):
            local_lxd.up(tmp_path, print)

    def test_the_refusal_says_that_namespaces_are_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "unshare").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        with pytest.raises(LxdUnavailable, match="no namespaces"):
            local_lxd.up(tmp_path, print)


@pytest.mark.usefixtures("_no_system_lxd")
class TestInstalling:
    @pytest.fixture
    def apt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine with nothing but an apt-get, which records its arguments."""
        fails = f"if [ -e {tmp_path}/fails ]; then echo no network >&2; exit 1; fi"
        script = f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{fails}\n'
        (tmp_path / "apt-get").write_text(script)
        (tmp_path / "apt-get").chmod(0o755)
        (tmp_path / "apt-cache").write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "apt-cache").chmod(0o755)
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"})
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(shutil, "which", _only_in(tmp_path))
        return tmp_path

    def test_the_firewall_is_installed_before_the_daemon(self, apt: Path) -> None:
        told: list[str] = []
        local_install.install(told.append)
        update, tools, lxd = (apt / "asked").read_text().splitlines()
        assert update.endswith("update")
        assert "nftables" in tools
        assert "lxd" not in tools.split()
        assert lxd.endswith("install lxd")
        assert told == ["installing nftables, iproute2, dnsmasq-base, btrfs-progs, debootstrap, zstd, lxd"]

    def test_a_failure_names_its_reason(self, apt: Path) -> None:
        (apt / "fails").touch()
        with pytest.raises(LxdUnavailable, match=r"`apt-get .* update` failed \(no network\)\."):
            local_install.install(print)

    def test_an_installed_product_is_used(self, apt: Path) -> None:
        for tool in ("incusd", *(program for package in TOOLS for program in package.programs)):
            (apt / tool).touch()
        assert local_install.install(print) is INCUS
        (apt / "lxd").touch()
        assert local_install.install(print) is LXD
        assert local_install.install(print, INCUS) is INCUS
        assert not (apt / "asked").exists()

    @pytest.mark.parametrize(
        ("system", "offered", "expected"),
        [
            ({"ID": "debian", "VERSION_ID": "12"}, "lxd incus-base", LXD),
            ({"ID": "debian", "VERSION_ID": "13"}, "lxd incus-base", INCUS),
            ({"ID": "debian"}, "incus-base", INCUS),
            ({"ID": "debian", "VERSION_ID": "13"}, "lxd", LXD),
            ({"ID": "ubuntu", "VERSION_ID": "24.04"}, "incus-base", INCUS),
        ],
    )
    def test_the_product_that_the_distribution_offers_is_installed(
        self, apt: Path, monkeypatch: pytest.MonkeyPatch, system: dict[str, str], offered: str, expected: Product
    ) -> None:
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda: system)
        (apt / "apt-cache").write_text(f'#!/bin/sh\ncase " {offered} " in *" $2 "*) exit 0 ;; esac\nexit 100\n')
        told: list[str] = []
        assert local_install.install(told.append) is expected
        assert (apt / "asked").read_text().splitlines()[-1].endswith(f"install {' '.join(expected.packages)}")
        assert told[0].endswith(", ".join(("zstd", *expected.packages)))

    def test_a_distribution_that_offers_neither_product_is_refused(self, apt: Path) -> None:
        (apt / "apt-cache").write_text("#!/bin/sh\nexit 100\n")
        with pytest.raises(LxdUnavailable, match="neither LXD nor Incus: install one"):
            local_install.install(print)

    def test_a_distribution_other_than_debian_and_ubuntu_is_refused(self, apt: Path) -> None:
        (apt / "apt-get").unlink()
        with pytest.raises(LxdUnavailable, match="neither Debian nor Ubuntu"):
            local_install.install(print)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may plug cables")
def test_only_the_veth_pair_of_a_container_that_never_started_is_removed() -> None:
    """Runs in a network namespace of its own."""
    script = """
        mount -t sysfs sysfs /sys
        ip link add br0 type bridge
        ip link add vetha type veth peer name vethb address 00:16:3e:00:00:01
        ip link add vethc type veth peer name vethd address 00:16:3e:00:00:02
        ip link set vethc master br0
        ip link add vethe type veth peer name vethf
        "$1" -c 'from bot.lxd.local import shared as local_shared; local_shared.remove_unused_veths()'
        ls /sys/class/net
    """
    command = ["unshare", "--net", "--mount", "sh", "-ec", script, "sh", sys.executable]
    left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert left == ["br0", "lo", "vethc", "vethd", "vethe", "vethf"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("dnsmasq", path=packages.path()), reason="needs both")
@pytest.mark.parametrize(("has", "left"), [("", "mopsbr0 own0"), ("own0", "mopsbr0"), ("own0 mopsbr0", "mopsbr0")])
def test_a_bridge_of_another_checkout_with_the_same_name_stays(tmp_path: Path, has: str, left: str) -> None:
    """Runs in a network namespace of its own, where the bot of another checkout has `mopsbr0`.

    `has`: the networks that this checkout's daemon knows as its own.
    """
    script = """
        mount -t sysfs sysfs /sys
        ip link add mopsbr0 type bridge
        ip link add own0 type bridge
        dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --port=0 --interface=mopsbr0 &
        trap "kill $!" EXIT
        until grep -q ^dnsmasq /proc/$!/cmdline; do sleep 0.01; done
        "$1" - "$2" <<END
import sys
from pathlib import Path
from bot.lxd.local import install as local_install, server as local_lxd, shared as local_shared
local_shared.HOME, local_install.SYSTEM_SOCKETS, local_lxd.leave = Path(sys.argv[1]), (), lambda: None
local_lxd.remove(Path("state"), project="-", pool="-", network="mopsbr0", profile="-")
END
        ls /sys/class/net
    """
    for name in has.split():
        (tmp_path / local_daemon.folder_of(Path("state")).name / "networks" / name).mkdir(parents=True)
    command = ["unshare", "--net", "--mount", "sh", "-ec", script, "sh", sys.executable, str(tmp_path)]
    environment = {**os.environ, "PATH": packages.path()}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert found == sorted(["lo", *left.split()])


def test_a_control_group_that_vanishes_during_the_search_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other programs on the machine do so at any time."""
    scandir = os.scandir

    def vanished(path: str) -> object:
        if str(path).startswith("/sys/fs/cgroup/"):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanished)
    (tmp_path / "lxd-0" / "containers" / "mautic-ops_client-x").mkdir(parents=True)
    local_remains.take_away(tmp_path / "lxd-0")
    assert list(tmp_path.iterdir()) == []


def _only_in(folder: Path) -> object:
    def which(program: str, path: str | None = None) -> str | None:
        return str(folder / program) if (folder / program).exists() else None

    return which


@pytest.mark.usefixtures("_no_system_lxd")
class TestOwnDaemon:
    @pytest.fixture(autouse=True)
    def programs(self, place: Place) -> Iterator[None]:
        """Provides the product's programs; where its daemon cannot run, skips or fails the test (`without_lxd`)."""
        with ExitStack() as stack:
            try:
                stack.enter_context(place.programs())
                if os.geteuid() != 0 or shutil.which(place.product.daemon) is None:
                    raise LxdUnavailable("it is not installed, or this is not root")
            except LxdUnavailable as error:
                without_lxd(error, place.product)
            yield

    @pytest.fixture
    def state(self, place: Place, programs: None, tmp_path: Path) -> Iterator[Path]:
        """A state folder where a daemon of one product may be started; the daemon is removed in any case."""
        _remove_of_killed_runs()
        with _noted(tmp_path):
            # As on a machine with this product only: other tests cover the choice between two.
            local_daemon.folder_of(tmp_path, place.product).mkdir(parents=True)
            yield tmp_path
            _remove(tmp_path)

    def test_a_daemon_is_started_once_and_found_from_then_on(self, state: Path, place: Place) -> None:
        told: list[str] = []
        first = local_lxd.up(state, told.append)
        assert first.own
        assert f"starting {place.product.name}" in told
        told.clear()
        assert local_lxd.up(state, told.append) == first == local_lxd.find(state)
        assert told == []

    def test_a_stopped_daemon_starts_again_with_its_tenants(self, state: Path) -> None:
        lxd = _prepared(state)
        assert local_lxd.stop(state)
        # No veth is left on the bridge: a server that starts while one vanishes may fail because of it.
        assert list(Path("/sys/class/net", f"mops{_tag(state)}", "brif").glob("*")) == []
        assert local_lxd.find(state) is None
        assert not local_lxd.stop(state)
        local_lxd.up(state, print)
        assert lxd.instance("tenant").running

    # With one product only, because it takes that minute.
    @pytest.mark.parametrize("place", [LXD_PLACE], indirect=True)
    def test_a_start_waits_for_a_bridge_that_fails_at_first(self, state: Path) -> None:
        """The server reports that it is ready, and tries the bridge again after a minute."""
        lxd = _prepared(state)
        assert local_lxd.stop(state)
        told: list[str] = []
        with _answers_dns(state) as other:

            def tell(line: str) -> None:
                told.append(line)
                if "cannot bring up" in line:
                    other.close()

            local_lxd.up(state, tell)
        assert lxd.instance("tenant").running
        (said,) = [line for line in told if "cannot bring up" in line]
        assert "failed to create listening socket for 10.73." in said
        assert said.endswith("; it tries again every minute")

    def test_a_bridge_that_keeps_failing_is_reported(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _prepared(state)
        assert local_lxd.stop(state)
        monkeypatch.setattr(local_daemon, "AGAIN_SECONDS", 0.5)
        # Incus looks at all interfaces of its machine, and may also fail because one of another test vanished.
        failed = rf"cannot bring up mops{_tag(state)}: .*(Address already in use|Device \"\S+\" does not exist)"
        with _answers_dns(state), pytest.raises(LxdUnavailable, match=failed):
            local_lxd.up(state, print)

    @pytest.mark.parametrize("place", [LXD_PLACE], indirect=True)
    def test_a_daemon_that_a_killed_test_run_left_is_removed_by_the_next_run(self, state: Path) -> None:
        _prepared(state)
        (NOTES / _tag(state)).unlink()
        killed = NOTES / _tag(state)
        killed.write_text(str(state))
        _remove_of_killed_runs()
        assert not killed.exists()
        assert not local_daemon.folder_of(state).exists()
        assert not Path("/sys/class/net", f"mops{_tag(state)}").exists()

    def test_tenants_keep_running_when_the_daemon_is_killed(self, state: Path) -> None:
        lxd = _prepared(state)
        before = lxd.execute("tenant", ["cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat"]).stdout
        pid = local_daemon.pid_of(local_daemon.folder_of(state))
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        local_lxd.up(state, print)
        after = lxd.execute("tenant", ["cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat"]).stdout
        # It is the same first process, by the time of its start (field 22).
        assert before.split()[22] == after.split()[22]

    @pytest.mark.parametrize("spoil", ["runs", "ended", "killed", "hangs", "cannot start", "lacks a volume"])
    def test_a_daemon_in_any_state_is_removed_without_a_trace(self, state: Path, spoil: str) -> None:
        folder, tag = local_daemon.folder_of(state), _tag(state)
        lxd = _prepared(state)
        port = free_port()
        # Like the proxies of an edge: each is a process of its own, whose command line names no folder.
        door = {"type": "proxy", "listen": f"tcp:127.0.0.1:{port}", "connect": "tcp:127.0.0.1:80", "bind": "host"}
        lxd.update("tenant", {"security.protection.delete": "true"}, {"http": door})
        (veth,) = [path.name for path in Path("/sys/class/net", f"mops{tag}", "brif").iterdir()]
        init = int(Path(_init(folder)).name)
        _spoil(lxd, state, spoil)
        _remove(state)
        assert not list(folder.parent.glob(f"{folder.name}*"))
        assert str(folder) not in Path("/proc/self/mounts").read_text()
        assert local_daemon.processes(folder) == []
        assert not local_processes.alive(init)
        assert [name for name in (f"mops{tag}", veth) if Path("/sys/class/net", name).exists()] == []
        loops = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True).stdout
        assert str(folder) not in loops
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        assert tag not in rules
        with socket.socket() as nobody:
            assert nobody.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        assert list(Path("/sys/fs/cgroup").glob(f"**/lxc.*.{tag}_*")) == []

    def test_the_project_of_a_server_that_lacks_a_volume_can_be_removed(self, state: Path) -> None:
        """Of a server that is not the bot's only the project is removed, and the server keeps running."""
        lxd = _prepared(state)
        _spoil(lxd, state, "lacks a volume")
        with pytest.raises(LxdError, match="could not delete"):
            lxd.remove_project()
        local_remains.create_missing_volumes(lxd.endpoint, _tag(state), _tag(state))
        lxd.remove_project()
        assert not Path("/sys/class/net", f"mops{_tag(state)}").exists()

    def test_a_daemon_that_died_is_started_again_and_a_stopped_one_is_not(self, state: Path, place: Place) -> None:
        lxd = _prepared(state)
        told: list[str] = []
        assert not local_lxd.keep(state, lxd.endpoint, told.append), "it is running"
        _kill(state)
        assert not local_lxd.keep(state, "/var/lib/lxd/unix.socket", told.append), "another server is not the bot's"
        assert local_lxd.keep(state, lxd.endpoint, told.append)
        assert f"starting {place.product.name}" in told
        assert lxd.instance("tenant").running
        local_lxd.stop(state)
        assert not local_lxd.keep(state, lxd.endpoint, told.append)
        assert local_lxd.find(state) is None

    def test_a_running_bot_starts_its_killed_daemon_again(
        self, state: Path, tmp_path: Path, workspace: WorkspaceServer
    ) -> None:
        lxd = _prepared(state)
        environment = {
            "MAUTIC_OPS_BOT__STATE": str(state),
            "MAUTIC_OPS_LXD__ENDPOINT": lxd.endpoint,
            "MAUTIC_OPS_LXD__PROJECT": _tag(state),
            "MAUTIC_OPS_LXD__POOL": _tag(state),
            "MAUTIC_OPS_LXD__PROFILE": _tag(state),
            "SLACK_BOT_TOKEN": BOT_TOKEN,
            "SLACK_APP_TOKEN": APP_TOKEN,
        }
        bot = BotProcess(environment, state, workspace)
        bot.start()
        try:
            before = _init(local_daemon.folder_of(state))
            _kill(state)
            eventually(lambda: local_lxd.find(state), 60)
            assert lxd.instance("tenant").running
            assert _init(local_daemon.folder_of(state)) == before, "the tenant kept running meanwhile"
            assert bot.process
            bot.stop()
            assert lxd.instance("tenant").running, "the daemon does not end with the bot"
        finally:
            bot.process.kill() if bot.process else None

    def test_a_start_waits_while_the_daemon_makes_progress_and_quotes_only_its_own_error(
        self, state: Path, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The daemon is a script that makes progress for longer than it may be silent, then ends with a reason."""
        folder = local_daemon.folder_of(state, place.product)
        monkeypatch.setattr(local_daemon, "READY_SECONDS", 0.6)
        log = folder.with_suffix(".log")
        log.parent.mkdir(exist_ok=True)
        log.write_text('time="then" level=error msg="Of another time"\n')
        daemon = state / "lxd"
        busy = "for i in 1 2 3 4 5 6 7 8; do sleep 0.2; echo $i; done"
        says = """echo 'level=error msg="Failed to start the daemon" err="no room"'"""
        daemon.write_text(f"#!/bin/sh\n{busy}\n{says}\n")
        daemon.chmod(0o755)
        product = replace(place.product, daemon=str(daemon))
        began = time.monotonic()
        with pytest.raises(
            LxdUnavailable, match=r"does not start on this machine: Failed to start the daemon: no room\.$"
        ):
            local_daemon.start_daemon(state, product, print)
        assert time.monotonic() - began > 1.5, "the bot gave up while the daemon made progress"
        daemon.write_text("#!/bin/sh\nexec sleep 600\n")
        with pytest.raises(LxdUnavailable, match=rf"does not start on this machine: its log is {log}\.$"):
            local_daemon.start_daemon(state, product, print)
        assert local_daemon.pid_of(folder) is None, "the daemon was left running"

    def test_an_lxcfs_that_was_killed_is_replaced(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mount, pid_file = state / "lxcfs", state / "lxcfs.pid"
        # The machine's own lxcfs is in use.
        monkeypatch.setattr(local_shared, "LXCFS", mount)
        monkeypatch.setattr(local_shared, "LXCFS_PID", pid_file)
        try:
            for _ in range(2):
                local_shared.start_lxcfs(state / "log", print)
                assert (mount / "proc" / "meminfo").read_bytes()
                pid = int(pid_file.read_text())
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        finally:
            subprocess.run(["umount", "--lazy", str(mount)], check=True)

    def test_removing_a_daemon_that_does_not_exist_does_no_harm(self, state: Path) -> None:
        local_daemon.folder_of(state).rmdir()
        _remove(state)


def _tag(state: Path) -> str:
    """Return the suffix that keeps the daemons, bridges and projects of tests that run side by side apart."""
    return local_daemon.folder_of(state).name.rpartition("-")[2]


@contextmanager
def _noted(state: Path) -> Iterator[None]:
    """Keep a note of a state folder, locked as long as this process lives, until its daemon is removed."""
    NOTES.mkdir(parents=True, exist_ok=True)
    note = NOTES / _tag(state)
    with note.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(state))
        file.flush()
        yield
        note.unlink(missing_ok=True)


def _remove_of_killed_runs() -> None:
    """Remove the daemons of runs that were killed: their bridges may have the subnet of one of this run."""
    for note in NOTES.glob("*"):
        with note.open() as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if state := file.read():
                _remove(Path(state))
            note.unlink(missing_ok=True)


def _remove(state: Path) -> None:
    tag = _tag(state)
    local_lxd.remove(state, project=tag, pool=tag, network=f"mops{tag}", profile=tag)


def _init(folder: Path) -> str:
    """Return the folder in /proc of the first process of the only container."""
    monitors = [
        pid for pid in local_daemon.processes(folder) if b"[lxc monitor]" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    (init,) = [pid for pid, parent in local_processes.parents().items() if parent in monitors]
    return f"/proc/{init}"


def _kill(state: Path) -> None:
    """Kill the daemon with SIGKILL and wait for its end; it may be a child of this process."""
    pid = local_daemon.pid_of(local_daemon.folder_of(state))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not local_processes.alive(pid))


def _spoil(lxd: LxdGateway, state: Path, how: str) -> None:
    """Bring a daemon into one of the states in which people may want to remove it."""
    folder = local_daemon.folder_of(state)
    if how == "ended":
        local_lxd.stop(state)
    elif how == "killed":
        _kill(state)
    elif how == "hangs":
        pid = local_daemon.pid_of(folder)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    elif how == "cannot start":
        _kill(state)
        (folder / "database" / "local.db").write_text("no database")
    elif how == "lacks a volume":
        lxd.snapshot("tenant", "s")
        lxd.copy("tenant/s", "copy", config={}, devices={})
        lxd.snapshot("copy", "s")
        pid = local_daemon.pid_of(folder)
        volume = Path(f"/proc/{pid}/root", folder.relative_to("/"), "storage-pools", _tag(state), "containers")
        volume /= f"{_tag(state)}_copy"
        subprocess.run(["btrfs", "subvolume", "delete", str(volume)], check=True, capture_output=True)
        # As after LXD was killed during a copy: it creates the folder first.
        volume.mkdir()


def _bridge(state: Path) -> str:
    return f"10.73.{int(_tag(state)[:2], 16)}.1"


def _answers_dns(state: Path) -> socket.socket:
    """Return a socket that occupies the DNS port at the address of the server's bridge, as another program may."""
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # The address can be bound although the bridge does not exist.
    other.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    other.bind((_bridge(state), 53))
    return other


def _prepared(state: Path) -> LxdGateway:
    """Start a server, and create the bot's project and a running tenant on it."""
    tag = _tag(state)
    socket = local_lxd.up(state, print).socket
    lxd = LxdGateway(socket, project=tag, pool=tag, network=f"mops{tag}", profile=tag)
    lxd.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet=f"{_bridge(state)}/24")
    script = Path(__file__).parents[1] / "support" / "tiny_image.sh"
    subprocess.run([str(script), str(state / "tiny.tar.gz")], check=True)
    lxd.import_image(str(state / "tiny.tar.gz"), "tiny", {})
    lxd.create("tenant", "tiny", config={}, devices={})
    lxd.start("tenant")
    return lxd


def test_stopping_ends_the_processes_that_a_dead_daemon_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have killed the daemon for memory; `make down` has to leave nothing running all the same."""
    monkeypatch.setattr(local_shared, "HOME", tmp_path / "home")
    monkeypatch.setattr(local_lxd, "alone", nullcontext)
    folder = local_daemon.folder_of(tmp_path)
    folder.mkdir(parents=True)
    folder.with_suffix(".pid").write_text("999999999 0")
    assert not local_lxd.stop(tmp_path), "none of its processes is running"
    # A monitor with a container's first process, which outlives it, and a dnsmasq.
    inside = f"exec -a '[lxc monitor] {folder}/containers client-x' sh -c 'sleep 600 & wait'"
    monitor = subprocess.Popen(["bash", "-c", inside])
    dnsmasq = subprocess.Popen(["bash", "-c", f"exec -a 'dnsmasq {folder}/networks' sleep 600"])
    other = subprocess.Popen(["sleep", "600"])
    try:
        eventually(lambda: set(local_daemon.processes(folder)) == {monitor.pid, dnsmasq.pid})
        children = Path(f"/proc/{monitor.pid}/task/{monitor.pid}/children")
        eventually(lambda: children.read_text().split())
        (first,) = map(int, children.read_text().split())
        assert local_lxd.stop(tmp_path)
        assert [pid for pid in (monitor.pid, dnsmasq.pid, first) if local_processes.alive(pid)] == []
        assert local_processes.alive(other.pid)
        assert not folder.with_suffix(".pid").exists(), "`keep` would start it again"
        assert folder.exists(), "the tenants are in it"
    finally:
        for one in (monitor, dnsmasq, other):
            one.kill()
            one.wait()


def test_processes_inside_a_container_do_not_count_as_the_daemons(tmp_path: Path) -> None:
    """A bot in the container may have a folder of the same name."""
    inner = f"sleep 600; : {tmp_path}/"
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "sh", "-c", inner]
    container = subprocess.Popen(command)
    try:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        eventually(children.read_text)
        assert local_daemon.processes(tmp_path) == [container.pid], "only the command itself runs on this machine"
    finally:
        container.kill()
        container.wait()
