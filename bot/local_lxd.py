"""An LXD or Incus server on this machine: found, or brought up where there is none, and taken away without a trace.

Where a service manager runs, it is the distribution's and stays. Elsewhere the bot runs a daemon of its own under
`/var/lib/mautic-ops/lxd-<hash of the state folder>` (or `incus-…`): containers' root users must be able to walk there
(which a checkout or a private state folder seldom allows), and its socket's path has to stay below 108 characters.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot import packages
from bot.lxd import LxdError, LxdUnavailable
from bot.lxd_gateway import LxdGateway
from bot.packages import CannotInstall
from bot.pool_folder import is_subvolume, of_pool
from bot.products import INCUS, LXD, PRODUCTS, Product, at, called

Progress = Callable[[str], None]

_SYSTEM_SOCKETS = tuple(socket for product in PRODUCTS for socket in product.sockets)
_LIMITS = {
    # Keys and watches are counted for all containers together, since they share one range of user ids.
    "kernel/keys/maxkeys": 20_000,
    "kernel/keys/maxbytes": 20_000_000,
    "fs/inotify/max_user_instances": 65_536,
    "fs/inotify/max_user_watches": 1_048_576,
    "fs/inotify/max_queued_events": 1_048_576,
    "fs/aio-max-nr": 524_288,
    "vm/max_map_count": 262_144,
}
_HOME = Path("/var/lib/mautic-ops")
_LIMITS_BEFORE = _HOME / "limits.json"
_LXCFS_PID = _HOME / "lxcfs.pid"
_READY_SECONDS = 60
"""How long a server may stand still on its way up: nothing said, no container more, no time spent on a core."""
_READY_LIMIT = 1800
"""How long it may take in all; sixty tenants that are to be started take minutes."""
_AGAIN_SECONDS = 130
"""How long a bridge or pool that a server could not bring up is waited for: it tries again every minute."""
_LXCFS = Path("/var/lib/lxcfs")


@dataclass(frozen=True)
class LocalLxd:
    """A server on this machine. `own`: a daemon that the bot started and may end."""

    socket: str
    own: bool


def find(state: Path, only: Product | None = None) -> LocalLxd | None:
    """Return the server that answers on this machine, or None. `state`: the bot's state folder, for its own daemon.

    `only`: one of this product, and no other.
    """
    own = _folder(state, only)
    places: list[tuple[Product | None, str]] = [(product, os.environ.get(product.socket, "")) for product in PRODUCTS]
    places += [(one, str(Path(os.environ[one.folder], "unix.socket"))) for one in PRODUCTS if one.folder in os.environ]
    places += [(at(path), path) for path in _SYSTEM_SOCKETS]
    places.append((_product(own), str(own / "unix.socket")))
    for product, path in places:
        if path and only in (None, product) and _ask(path, "/1.0"):
            return LocalLxd(path, own=path == str(own / "unix.socket"))
    return None


def up(state: Path, progress: Progress, only: Product | None = None) -> LocalLxd:
    """Return a server of this machine, installed and started when there is none; `progress` gets lines for a person.

    `only`: one of this product, and no other. Quick when it already runs. Raises LxdUnavailable with a reason when none
    can run here.
    """
    with alone():
        found = find(state, only)
        if found is not None and found.own and (pid := _pid(_folder(state, only))) is not None:
            # It answers before it has started its containers.
            found = _wait(_folder(state, only), pid, progress)
        elif found is None:
            found = _bring_up(state, progress, only)
        if os.geteuid() == 0:
            raise_limits(progress)
        return found


def _bring_up(state: Path, progress: Progress, only: Product | None) -> LocalLxd:
    kept = _folder(state, only)
    if (pid := _pid(kept)) is not None:
        # It lives, and is slow to answer: a second one beside it would do harm.
        with suppress(LxdUnavailable):
            return _wait(kept, pid, progress)
    _refuse_where_impossible()
    product = _install(progress, only or _kept(state))
    # Where a service manager runs, the package has just started it.
    return _wait_for_service(state, product) if _service_manager() else _start(state, product, progress)


def keep(state: Path, endpoint: str, progress: Progress) -> bool:
    """Start what is the bot's own on this machine and has died: its server at `endpoint`, and lxcfs.

    Tell whether the server was started. One that `stop` ended stays so, and anybody else's is not touched.
    """
    folder = _folder(state)
    if endpoint not in ("", str(folder / "unix.socket")) or not folder.with_suffix(".pid").exists():
        return False
    if _pid(folder) is not None and not _lxcfs_died():
        return False
    with alone():
        if not folder.with_suffix(".pid").exists():
            return False
        if _lxcfs_died():
            _start_lxcfs(folder.with_suffix(".log"), progress)
        if _pid(folder) is not None:
            return False
        _start(state, _product(folder), progress)
        return True


def stop(state: Path) -> bool:
    """End the bot's own daemon with its containers; tell whether one was there. Anybody else's server goes on."""
    folder = _folder(state)
    with alone():
        pid = _pid(folder)
        if pid is None:
            return False
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*_product(folder).shutdown, "--timeout", "60"],
                env=_environment(folder),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=90,
                check=False,
            )
        _end([pid])
        _end(_processes(folder))
        _unmount(folder)
        folder.with_suffix(".pid").unlink(missing_ok=True)
        return True


def remove(state: Path, *, project: str, pool: str, network: str, profile: str, only: Product | None = None) -> None:
    """Take away all that the bot made on this machine's server, and the server too when it is the bot's own.

    The own one goes whatever state it is in: it may be dead, hang, or not be able to start any more. `only`: a server
    of this product, and no other.
    """
    folder = _folder(state, only)
    found = find(state, only or _kept(state))
    if found is not None:
        lxd = LxdGateway(found.socket, project=project, pool=pool, network=network, profile=profile)
        try:
            lxd.remove_project()
        except LxdError:
            _fill_gaps(found.socket, project, pool)
            # What the own one cannot take away goes with it.
            with suppress(LxdError) if found.own else nullcontext():
                lxd.remove_project()
    with alone():
        _take_away(folder)
    leave()


def leave() -> None:
    """Take away what the servers of this machine share, once none is left."""
    with alone():
        if not _another_server():
            _stop_lxcfs()
            _restore_limits()
            _remove_loose_cables()
    with suppress(OSError):
        _HOME.rmdir()


# -- finding ------------------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(path: str, address: str) -> bool:
    """Whether a server answers 200 at a unix socket."""
    return _get(path, address) is not None


def _get(path: str, address: str) -> Any:
    """What a server says at an address of its unix socket, {} where that is nothing; None when it does not answer."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", address)
        answer = connection.getresponse()
        return (json.loads(answer.read()).get("metadata") or {}) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _folder(state: Path, product: Product | None = None) -> Path:
    """The folder of the bot's own daemon: that of a product, or else the one that is there."""
    digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]
    return _HOME / f"{(product or _kept(state) or LXD).key}-{digest}"


def _kept(state: Path) -> Product | None:
    """What the bot's own daemon of this state is, also while it does not run: it has the tenants."""
    return next((product for product in PRODUCTS if _folder(state, product).exists()), None)


def _product(folder: Path) -> Product:
    return called(folder.name.partition("-")[0])


def _service_manager() -> bool:
    return Path("/run/systemd/system").exists()


@contextmanager
def alone() -> Iterator[None]:
    """Keep two of us from starting or ending daemons at once: all on a machine share its limits and its lxcfs."""
    with Path("/run/mautic-ops.lock" if os.geteuid() == 0 else os.devnull).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- bringing up --------------------------------------------------------------------------------------------------


def _refuse_where_impossible() -> None:
    instead = "try `make up LXD=simulated`, or point the bot at an LXD or Incus server"
    if sys.platform != "linux":
        raise LxdUnavailable(f"LXD and Incus run on Linux only, and this is {sys.platform}; {instead}.")
    if os.geteuid() != 0:
        for path in _SYSTEM_SOCKETS:
            if Path(path).exists() and not os.access(path, os.W_OK):
                product = at(path)
                name = product.name if product else "a server"
                raise LxdUnavailable(
                    f"There is {name} at {path}, but you may not use it: join its group; or {instead}."
                )
        raise LxdUnavailable(f"There is neither LXD nor Incus on this machine, and only root can start one; {instead}.")
    probe = ["unshare", "--user", "--mount", "--net", "--pid", "--fork", "true"]
    try:
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LxdUnavailable(f"This machine lets nobody make containers (no namespaces); {instead}.") from error
    if " /sys/fs/cgroup" not in Path("/proc/self/mounts").read_text():
        raise LxdUnavailable(f"This machine has no control groups at /sys/fs/cgroup; {instead}.")


def _install(progress: Progress, wanted: Product | None = None) -> Product:
    """Install what is missing of a server and what it needs; return what the server is.

    `wanted`, else what is installed, else what the distribution offers.
    """
    tools = packages.missing(packages.TOOLS)
    there = [one for one in PRODUCTS if wanted in (None, one) and shutil.which(one.daemon, path=packages.path())]
    if there and not tools:
        return there[0]
    try:
        packages.refuse_where_none_can_be_installed(tools if there else [*tools, "LXD or Incus"])
        packages.update()
        product = there[0] if there else wanted or _offered()
        progress(f"installing {', '.join([*tools, *([] if there else product.packages)])}")
        if tools:
            packages.install(tools)
        if not there:
            # Ubuntu has LXD as a snap only.
            snap = product is LXD and shutil.which("snap") is not None and _service_manager()
            packages.install(product.packages, snap=snap)
    except CannotInstall as error:
        raise LxdUnavailable(f"The server could not be installed: {error}") from error
    return product


def _offered() -> Product:
    """What the distribution has: LXD, but Incus from Debian 13 on (which is the last with LXD) and where LXD is not."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    # Debian's testing has no number.
    incus_first = system.get("ID") == "debian" and system.get("VERSION_ID", "13") not in ("11", "12")
    if not incus_first and shutil.which("snap") and _service_manager():
        return LXD
    for product in (INCUS, LXD) if incus_first else (LXD, INCUS):
        if not subprocess.run(["apt-cache", "show", product.packages[0]], capture_output=True, check=False).returncode:
            return product
    raise LxdUnavailable("This system's package sources have neither LXD nor Incus: install one, then try again.")


def _wait_for_service(state: Path, product: Product) -> LocalLxd:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        found = find(state)
        if found is not None:
            return found
        time.sleep(0.2)
    raise LxdUnavailable(
        f"{product.name} is installed, but its service does not answer; `systemctl status {product.key}` says more."
    )


def _start(state: Path, product: Product, progress: Progress) -> LocalLxd:
    folder = _folder(state, product)
    folder.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o755)
    folder.chmod(0o711)
    raise_limits(progress)
    _start_lxcfs(folder.with_suffix(".log"), progress)
    progress(f"starting {product.name}")
    with folder.with_suffix(".log").open("ab") as log:
        began = log.tell()
        # In a session of its own, so that a Ctrl-C that ends the bot leaves the tenants running.
        daemon = subprocess.Popen(
            [product.daemon, "--group", "root"],
            env=_environment(folder),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # With where its words begin in the log, which has those of earlier ones too.
    folder.with_suffix(".pid").write_text(f"{daemon.pid} {began}")
    try:
        return _wait(folder, daemon.pid, progress)
    finally:
        # It outlives this process, which need not be told of its end.
        daemon.returncode = 0


def _wait(folder: Path, pid: int, progress: Progress) -> LocalLxd:
    """Wait until the own daemon is ready, as long as it gets on with it, and tell what it does.

    One that does not is ended; raises LxdUnavailable with what it said since it was started.
    """
    path = str(folder / "unix.socket")
    give_up = time.monotonic() + _READY_LIMIT
    moved, seen, told = time.monotonic(), None, ""
    while _alive(pid):
        if _ask(path, "/internal/ready"):
            _wait_for_the_rest(folder, path, progress)
            return LocalLxd(path, own=True)
        doing = _doing(path)
        if doing and doing != told:
            progress(f"{_product(folder).name} {doing}")
            told = doing
        now = (doing, _said(folder), len(_processes(folder)), _spent(pid))
        if now != seen:
            seen, moved = now, time.monotonic()
        if time.monotonic() > min(give_up, moved + _READY_SECONDS):
            _end([pid])
            break
        time.sleep(0.1)
    raise LxdUnavailable(f"{_product(folder).name} does not start on this machine: {_reason(folder)}.")


def _wait_for_the_rest(folder: Path, path: str, progress: Progress) -> None:
    """Wait for what a server that says it is ready lacks: a bridge or pool that failed, and the containers on it.

    It tries those again every minute, and starts no container that needs one before. Raises LxdUnavailable with the
    reason when one still fails.
    """
    lacks = _lacks(path)
    if not lacks:
        return
    name = _product(folder).name
    progress(f"{name} cannot bring up {', '.join(lacks)} ({_reason(folder, lacks)}); it tries again every minute")
    end = time.monotonic() + _AGAIN_SECONDS
    while time.monotonic() < end:
        runs, wanted = _running(path)
        lacks = _lacks(path)
        if not lacks and runs == wanted:
            return
        time.sleep(0.2)
    if lacks:
        raise LxdUnavailable(f"{name} cannot bring up {', '.join(lacks)}: {_reason(folder, lacks)}.")


def _lacks(path: str) -> list[str]:
    """The bridges and pools that a server has, and could not bring up."""
    found = [one for kind in ("networks", "storage-pools") for one in _get(path, f"/1.0/{kind}?recursion=1") or []]
    return [one["name"] for one in found if one.get("status") == "Unavailable"]


def _reason(folder: Path, names: Iterable[str] = ()) -> str:
    """The last error that the own daemon has told since it was started. `names`: of one of these, if there is any."""
    lines = [line for line in _said(folder).splitlines() if re.search("level=(error|fatal)", line)]
    named = [line for line in lines if any(name in line for name in names)]
    # In quotes, with a backslash before those within.
    words = [
        word.replace('\\"', '"')
        for part in ("msg", "err", "error")
        for word in re.findall(rf'\b{part}="((?:[^"\\]|\\.)*)"', (named or lines or [""])[-1])
    ]
    return (": ".join(words) or f"its log is {folder.with_suffix('.log')}").rstrip(".")


def _doing(path: str) -> str:
    """What a server that is not ready does: how many of its containers run already; "" when it does not say."""
    runs, wanted = _running(path)
    return f"starts its containers: {runs} of {wanted} run" if wanted else ""


def _running(path: str) -> tuple[int, int]:
    """How many containers of a server run, and how many are to, as they did before it ended; (0, 0) if it is silent."""
    instances = _get(path, "/1.0/instances?recursion=1&all-projects=true")
    if not isinstance(instances, list):
        return 0, 0
    runs = [one.get("status") == "Running" for one in instances]
    to_run = [one.get("config", {}).get("volatile.last_state.power") == "RUNNING" for one in instances]
    return sum(runs), sum(now or before for now, before in zip(runs, to_run, strict=True))


def _said(folder: Path) -> str:
    """What the own daemon has said since it was started."""
    try:
        began = int(folder.with_suffix(".pid").read_text().split()[1])
        with folder.with_suffix(".log").open("rb") as log:
            log.seek(began)
            return log.read().decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return ""


def _spent(pid: int) -> int:
    """The whole seconds that a process has spent on a core."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")


def _environment(folder: Path) -> dict[str, str]:
    """What names one daemon to itself and to its tools, and no other that whoever runs this has in mind."""
    product = _product(folder)
    named = {name: value for name, value in os.environ.items() if name != product.socket}
    return {**named, product.folder: str(folder), "PATH": packages.path()}


def raise_limits(progress: Progress) -> None:
    """Raise the kernel's limits that a hundred containers run into; note the former ones for `remove`."""
    before: dict[str, int] = {}
    for name, wanted in _LIMITS.items():
        path = Path("/proc/sys", name)
        try:
            now = int(path.read_text())
            if now < wanted:
                path.write_text(str(wanted))
                before[name] = now
        except OSError:
            progress(f"cannot raise {name.replace('/', '.')}; more than about 60 tenants may not start")
    if before and _HOME.exists():
        # Those of the first time count: later ones are already ours.
        _LIMITS_BEFORE.write_text(json.dumps(before | _limits_before()))


def _limits_before() -> dict[str, int]:
    found: dict[str, int] = json.loads(_LIMITS_BEFORE.read_text()) if _LIMITS_BEFORE.exists() else {}
    return found


def _restore_limits() -> None:
    for name, before in _limits_before().items():
        path = Path("/proc/sys", name)
        with suppress(OSError):
            if int(path.read_text()) == _LIMITS.get(name):
                path.write_text(str(before))
    _LIMITS_BEFORE.unlink(missing_ok=True)


def _start_lxcfs(log_file: Path, progress: Progress) -> None:
    """Start lxcfs when nobody did: without it tenants see the memory and CPUs of the whole machine."""
    program = shutil.which("lxcfs", path=packages.path())
    if program is None or not Path("/dev/fuse").exists():
        progress("lxcfs cannot run here; tenants will see the whole machine's memory")
        return
    if _lxcfs_serves():
        return
    # One that was killed leaves its mount, which nobody can enter.
    subprocess.run(["umount", "--lazy", str(_LXCFS)], check=False, capture_output=True)
    _LXCFS.mkdir(exist_ok=True)
    own_file = _LXCFS_PID.with_suffix(".run")
    with log_file.open("ab") as log:
        # With a pid file elsewhere than its default, which is the distribution's service's.
        lxcfs = subprocess.Popen(
            [program, "--foreground", f"--pidfile={own_file}", str(_LXCFS)],
            # Of all servers here, and so of none's environment.
            env={"PATH": packages.path()},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _LXCFS_PID.write_text(str(lxcfs.pid))
    end = time.monotonic() + 5
    while not _lxcfs_serves() and lxcfs.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    own_file.unlink(missing_ok=True)
    if lxcfs.poll() is None:
        lxcfs.returncode = 0


def _lxcfs_died() -> bool:
    """Whether there was one that we started."""
    return _LXCFS_PID.exists() and not _lxcfs_serves()


def _lxcfs_serves() -> bool:
    with suppress(OSError):
        return bool((_LXCFS / "proc" / "meminfo").read_bytes())
    return False


# -- taking away --------------------------------------------------------------------------------------------------


def _pid(folder: Path) -> int | None:
    """The pid of the bot's own daemon when it runs."""
    try:
        pid = int(folder.with_suffix(".pid").read_text().split()[0])
        mark = f"{_product(folder).folder}={folder}".encode()
        running = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return None
    return pid if running else None


def _processes(folder: Path) -> list[int]:
    """What the daemon left: monitors of containers and dnsmasq, whose command lines name its folder, and its proxies.

    In a container on this machine another may have a folder of the same name.
    """
    mark, here = f"{folder}/".encode(), os.readlink("/proc/self/ns/pid")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes()
            named = mark in command + b"/" and int(path.parent.name) != os.getpid()
            # A proxy's command line has nothing but pids and ports; its log stands in the folder.
            proxy = b"forkproxy" in command and os.readlink(path.with_name("fd") / "1").startswith(f"{folder}/logs/")
            if (named or proxy) and os.readlink(path.with_name("ns") / "pid") == here:
                found.append(int(path.parent.name))
    return found


def _end(pids: list[int]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        end = time.monotonic() + 5
        while any(_alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        # One that this process started is told of its end here.
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _remove_loose_cables() -> None:
    """Remove the cables of containers that never started: both ends are still here, and neither is plugged in."""
    links = {path.name: path for path in Path("/sys/class/net").glob("veth*")}
    with suppress(OSError):
        numbers = {(path / "ifindex").read_text(): name for name, path in links.items()}
        for name, path in links.items():
            other = numbers.get((path / "iflink").read_text(), "")
            plugged = any((links[end] / "master").exists() for end in (name, other) if end)
            # Their end has an address as LXD and Incus give them.
            if other and not plugged and (path / "address").read_text().startswith(("00:16:3e", "10:66:6a")):
                _quietly("ip", "link", "delete", name)


def _fill_gaps(path: str, project: str, pool: str) -> None:
    """Give instances without a volume an empty one, since LXD deletes no other; on btrfs only a folder is there.

    It leaves such a one when it is killed while it copies. `path`: its socket, on this machine.
    """
    folder = of_pool(path, pool)
    if folder is None:
        return
    with suppress(OSError):
        if not is_subvolume(folder):
            return
        for volume in (
            *folder.glob(f"containers/{project}_*"),
            *folder.glob(f"containers-snapshots/{project}_*/*"),
        ):
            if not is_subvolume(volume):
                # What is in it LXD wrote there beside the volume that it was about to make.
                shutil.rmtree(volume)
                _quietly("btrfs", "subvolume", "create", str(volume))


def _take_away(folder: Path) -> None:
    """End the own daemon and all that it started, and remove all that it made in the kernel and in its folder."""
    instances = [path.name for kind in ("containers", "logs") for path in folder.glob(f"{kind}/*")]
    if (pid := _pid(folder)) is not None:
        _end([pid])
    monitors = _processes(folder)
    # Their children are the containers' first processes, which outlive them; with these all of a container ends.
    _end([*monitors, *(pid for pid, parent in _parents().items() if parent in monitors)])
    # What still serves is of another checkout's bot, which calls its bridge and its tenants the same.
    others = _served()
    networks = {path.name for path in folder.glob("networks/*")} - others
    _unmount(folder)
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if device.read_text().startswith(f"{folder}/"):
                _quietly("losetup", "--detach", f"/dev/{device.parent.parent.name}")
    for name in networks:
        # The kernel takes a cable away with the container at its other end, but not at once.
        cables = [path.name for path in Path("/sys/class/net", name, "brif").glob("*")]
        for link in (*cables, name):
            if Path("/sys/class/net", link).exists():
                _quietly("ip", "link", "delete", link)
    _forget_rules(networks, set(instances) - others)
    _forget_groups({one for one in instances if "_" in one})
    if folder.exists():
        shutil.rmtree(folder)
    for suffix in (".log", ".pid"):
        folder.with_suffix(suffix).unlink(missing_ok=True)


def _served() -> set[str]:
    """The bridges and running instances of the servers in this network, by the dnsmasq or monitor that each has."""
    here = os.readlink("/proc/self/ns/net")
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_text(errors="replace").rstrip("\0").replace("\0", " ").split(" ")
            if Path(words[0]).name not in ("dnsmasq", "[lxc") or os.readlink(path.with_name("ns") / "net") != here:
                continue
            if words[0] == "[lxc":
                found.add(words[-1])
            else:
                found |= {word.removeprefix("--interface=") for word in words if word.startswith("--interface=")}
    return found


def _forget_groups(instances: set[str]) -> None:
    """Remove the control groups that instances left, the inner ones first; those of others come and go meanwhile."""
    for group, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if any(part.startswith("lxc.") and part.rpartition(".")[2] in instances for part in group.split("/")):
            with suppress(OSError):
                os.rmdir(group)


def _forget_rules(networks: set[str], instances: set[str]) -> None:
    """Remove what a firewall still has of networks and instances; LXD and Incus name their chains after them."""
    with suppress(OSError, ValueError):
        listed = subprocess.run(
            ["nft", "--json", "list", "chains"],
            env={**os.environ, "PATH": packages.path()},
            capture_output=True,
            check=False,
        )
        chains = [entry["chain"] for entry in json.loads(listed.stdout)["nftables"] if "chain" in entry]
        ours = []
        for chain in chains:
            of = chain["name"].partition(".")[2]
            if chain["table"] in ("lxd", "incus") and (of in networks or of.partition(".")[0] in instances):
                ours.append((chain["family"], chain["table"], chain["name"]))
        # Emptied first, since they lead to each other.
        for doing in ("flush", "delete"):
            for chain in ours:
                _quietly("nft", doing, "chain", *chain)


def _quietly(*command: str) -> None:
    """Run what may find nothing to do."""
    with suppress(FileNotFoundError):
        subprocess.run(command, env={**os.environ, "PATH": packages.path()}, check=False, capture_output=True)


def _parents() -> dict[int, int]:
    """The parent of every process of this machine."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def _stop_lxcfs() -> None:
    """End the lxcfs that we started."""
    try:
        pid = int(_LXCFS_PID.read_text())
        ours = b"lxcfs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        ours = False
    if ours:
        _end([pid])
        subprocess.run(["umount", "--lazy", str(_LXCFS)], check=False, capture_output=True)
    _LXCFS_PID.unlink(missing_ok=True)


def _another_server() -> bool:
    """Whether any LXD or Incus runs on this machine: its containers need what all share, lxcfs and raised limits."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            # One that has ended, and that its parent has not asked after yet, has no command line.
            if path.read_text().strip() in ("lxd", "incusd") and path.with_name("cmdline").read_bytes():
                return True
    return False
