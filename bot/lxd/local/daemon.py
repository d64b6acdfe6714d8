"""The daemon of LXD or Incus that is the bot's own: its folder, its start, and what it says on its way up.

It has a folder `/var/lib/mautic-ops/lxd-<hash of the state folder>` (or `incus-…`): containers' root users must be able
to walk there (which a checkout or a private state folder seldom allows), and its socket's path has to stay below 108
characters. Beside it are its log, and a file with its pid.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.lxd import packages
from bot.lxd.entries import status_of
from bot.lxd.local import shared as local_shared
from bot.lxd.local.processes import alive, end_all
from bot.lxd.local.shared import Progress
from bot.lxd.products import LXD, PRODUCTS, Product, called
from bot.lxd.protocol import LxdUnavailable

READY_SECONDS = 60
"""How long a server may stand still on its way up: nothing said, no container more, no time spent on a core."""
_READY_LIMIT = 1800
"""How long it may take in all; sixty tenants that are to be started take minutes."""
AGAIN_SECONDS = 130
"""How long a bridge or pool that a server could not bring up is waited for: it tries again every minute."""


@dataclass(frozen=True)
class LocalLxd:
    """A server on this machine. `own`: a daemon that the bot started and may end."""

    socket: str
    own: bool


def folder_of(state: Path, product: Product | None = None) -> Path:
    """Return the folder of the bot's own daemon: that of a product, or else the one that is there."""
    digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]
    return local_shared.HOME / f"{(product or kept_product(state) or LXD).key}-{digest}"


def kept_product(state: Path) -> Product | None:
    """Return what the bot's own daemon of this state is, also while it does not run: it has the tenants."""
    return next((product for product in PRODUCTS if folder_of(state, product).exists()), None)


def product_of(folder: Path) -> Product:
    """Return what the daemon of a folder is."""
    return called(folder.name.partition("-")[0])


def pid_of(folder: Path) -> int | None:
    """Return the pid of the bot's own daemon when it runs."""
    try:
        pid = int(folder.with_suffix(".pid").read_text().split()[0])
        mark = f"{product_of(folder).folder}={folder}".encode()
        running = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return None
    return pid if running else None


def environment(folder: Path) -> dict[str, str]:
    """Return what names one daemon to itself and to its tools, and no other that whoever runs this has in mind."""
    product = product_of(folder)
    named = {name: value for name, value in os.environ.items() if name != product.socket}
    return {**named, product.folder: str(folder), "PATH": packages.path()}


def processes(folder: Path) -> list[int]:
    """Return what the daemon left: its proxies, and monitors of containers and dnsmasq, which name its folder.

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


def start_daemon(state: Path, product: Product, progress: Progress) -> LocalLxd:
    """Start the own daemon and wait until it is ready; raises LxdUnavailable with what it said."""
    folder = folder_of(state, product)
    folder.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o755)
    folder.chmod(0o711)
    local_shared.raise_limits(progress)
    local_shared.start_lxcfs(folder.with_suffix(".log"), progress)
    progress(f"starting {product.name}")
    with folder.with_suffix(".log").open("ab") as log:
        began = log.tell()
        # In a session of its own, so that a Ctrl-C that ends the bot leaves the tenants running.
        daemon = subprocess.Popen(
            [product.daemon, "--group", "root"],
            env=environment(folder),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # With where its words begin in the log, which has those of earlier ones too.
    folder.with_suffix(".pid").write_text(f"{daemon.pid} {began}")
    try:
        return wait_until_ready(folder, daemon.pid, progress)
    finally:
        # It outlives this process, which need not be told of its end.
        daemon.returncode = 0


def wait_until_ready(folder: Path, pid: int, progress: Progress) -> LocalLxd:
    """Wait until the own daemon is ready, as long as it gets on with it, and tell what it does.

    One that does not is ended; raises LxdUnavailable with what it said since it was started.
    """
    path = str(folder / "unix.socket")
    give_up = time.monotonic() + _READY_LIMIT
    moved, seen, told = time.monotonic(), None, ""
    while alive(pid):
        if answers(path, "/internal/ready"):
            _wait_for_the_rest(folder, path, progress)
            return LocalLxd(path, own=True)
        doing = _doing(path)
        if doing and doing != told:
            progress(f"{product_of(folder).name} {doing}")
            told = doing
        now = (doing, _said(folder), len(processes(folder)), _spent(pid))
        if now != seen:
            seen, moved = now, time.monotonic()
        if time.monotonic() > min(give_up, moved + READY_SECONDS):
            end_all([pid])
            break
        time.sleep(0.1)
    raise LxdUnavailable(f"{product_of(folder).name} does not start on this machine: {_reason(folder)}.")


def _wait_for_the_rest(folder: Path, path: str, progress: Progress) -> None:
    """Wait for what a server that says it is ready lacks: a bridge or pool that failed, and the containers on it.

    It tries those again every minute, and starts no container that needs one before. Raises LxdUnavailable with the
    reason when one still fails.
    """
    lacks = _lacks(path)
    if not lacks:
        return
    name = product_of(folder).name
    progress(f"{name} cannot bring up {', '.join(lacks)} ({_reason(folder, lacks)}); it tries again every minute")
    end = time.monotonic() + AGAIN_SECONDS
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
    found = [one for kind in ("networks", "storage-pools") for one in told(path, f"/1.0/{kind}?recursion=1") or []]
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
    instances = told(path, "/1.0/instances?recursion=1&all-projects=true")
    if not isinstance(instances, list):
        return 0, 0
    runs = [status_of(one) == "Running" for one in instances]
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


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def answers(path: str, address: str) -> bool:
    """Whether a server answers 200 at a unix socket."""
    return told(path, address) is not None


def told(path: str, address: str) -> Any:
    """Return what a server says at an address of its unix socket ({}: nothing); None when it does not answer."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", address)
        answer = connection.getresponse()
        return (json.loads(answer.read()).get("metadata") or {}) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
