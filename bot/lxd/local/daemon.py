"""The bot's own LXD or Incus daemon on this machine: its folder, its start, and its progress while it starts.

Its folder is `/var/lib/mautic-ops/lxd-<hash of the state folder>` (or `incus-…`). The root users of containers must be
able to enter the folder (which a checkout or a private state folder seldom allows), and the path of its socket has to
stay below 108 characters. Its log and a file with its pid are beside the folder.
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
"""Seconds that a starting server may go without progress: nothing logged, no new container, no CPU time used."""
_READY_LIMIT = 1800
"""Seconds that a start may take in all; with sixty tenants to start it takes minutes."""
AGAIN_SECONDS = 130
"""Seconds to wait for a bridge or pool that a server could not bring up: it tries again every minute."""


@dataclass(frozen=True)
class LocalLxd:
    """A server on this machine. `own`: a daemon that the bot started and may end."""

    socket: str
    own: bool


def folder_of(state: Path, product: Product | None = None) -> Path:
    """Return the folder of the bot's own daemon.

    That is the daemon of `product`, or else the one that has a folder, or else LXD.
    """
    digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]
    return local_shared.HOME / f"{(product or kept_product(state) or LXD).key}-{digest}"


def kept_product(state: Path) -> Product | None:
    """Return the product of the bot's own daemon for this state folder, or None where there is none.

    It counts while the daemon does not run too, because the daemon has the tenants.
    """
    return next((product for product in PRODUCTS if folder_of(state, product).exists()), None)


def product_of(folder: Path) -> Product:
    """Return the product of the daemon with this folder."""
    return called(folder.name.partition("-")[0])


def pid_of(folder: Path) -> int | None:
    """Return the pid of the bot's own daemon, or None when it does not run."""
    try:
        pid = int(folder.with_suffix(".pid").read_text().split()[0])
        mark = f"{product_of(folder).folder}={folder}".encode()
        running = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return None
    return pid if running else None


def environment(folder: Path) -> dict[str, str]:
    """Return the environment for one daemon and its tools.

    It names the daemon's folder, and lacks the socket variable, which may name another server.
    """
    product = product_of(folder)
    named = {name: value for name, value in os.environ.items() if name != product.socket}
    return {**named, product.folder: str(folder), "PATH": packages.path()}


def processes(folder: Path) -> list[int]:
    """Return the pids of what the daemon started: proxies, container monitors and dnsmasq, which name its folder.

    Processes of other PID namespaces are excluded: in a container on this machine another daemon may have a folder of
    the same name.
    """
    mark, here = f"{folder}/".encode(), os.readlink("/proc/self/ns/pid")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes()
            named = mark in command + b"/" and int(path.parent.name) != os.getpid()
            # A proxy's command line has nothing but pids and ports, but its log is in the folder.
            proxy = b"forkproxy" in command and os.readlink(path.with_name("fd") / "1").startswith(f"{folder}/logs/")
            if (named or proxy) and os.readlink(path.with_name("ns") / "pid") == here:
                found.append(int(path.parent.name))
    return found


def start_daemon(state: Path, product: Product, progress: Progress) -> LocalLxd:
    """Start the bot's own daemon and wait until it is ready; raises LxdUnavailable with what it logged."""
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
    # With the place where its output begins in the log, which has that of earlier daemons too.
    folder.with_suffix(".pid").write_text(f"{daemon.pid} {began}")
    try:
        return wait_until_ready(folder, daemon.pid, progress)
    finally:
        # The daemon outlives this process, so Popen must not warn that it still runs.
        daemon.returncode = 0


def wait_until_ready(folder: Path, pid: int, progress: Progress) -> LocalLxd:
    """Wait until the bot's own daemon is ready, as long as it makes progress, and report what it does.

    A daemon without progress is ended. Raises LxdUnavailable with what the daemon has logged since its start.
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
    """Wait for what a server that calls itself ready lacks: a failed bridge or pool, and the containers that need it.

    The server tries those again every minute, and starts no container that needs one before. Raises LxdUnavailable with
    the reason when one still fails after AGAIN_SECONDS.
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
    """Return the names of the bridges and pools that a server has, but could not bring up."""
    found = [one for kind in ("networks", "storage-pools") for one in told(path, f"/1.0/{kind}?recursion=1") or []]
    return [one["name"] for one in found if one.get("status") == "Unavailable"]


def _reason(folder: Path, names: Iterable[str] = ()) -> str:
    """Return the last error that the bot's own daemon has logged since its start.

    `names`: prefer errors that name one of these.
    """
    lines = [line for line in _said(folder).splitlines() if re.search("level=(error|fatal)", line)]
    named = [line for line in lines if any(name in line for name in names)]
    # Values are in quotes, with a backslash before quotes inside them.
    words = [
        word.replace('\\"', '"')
        for part in ("msg", "err", "error")
        for word in re.findall(rf'\b{part}="((?:[^"\\]|\\.)*)"', (named or lines or [""])[-1])
    ]
    return (": ".join(words) or f"its log is {folder.with_suffix('.log')}").rstrip(".")


def _doing(path: str) -> str:
    """Return what a starting server does: how many of its containers already run; "" when it does not say."""
    runs, wanted = _running(path)
    return f"starts its containers: {runs} of {wanted} run" if wanted else ""


def _running(path: str) -> tuple[int, int]:
    """Return how many containers of a server run, and how many are to run; (0, 0) if the server is silent.

    Those that run, and those that ran before the server ended, are to run.
    """
    instances = told(path, "/1.0/instances?recursion=1&all-projects=true")
    if not isinstance(instances, list):
        return 0, 0
    runs = [status_of(one) == "Running" for one in instances]
    to_run = [one.get("config", {}).get("volatile.last_state.power") == "RUNNING" for one in instances]
    return sum(runs), sum(now or before for now, before in zip(runs, to_run, strict=True))


def _said(folder: Path) -> str:
    """Return what the bot's own daemon has logged since its start."""
    try:
        began = int(folder.with_suffix(".pid").read_text().split()[1])
        with folder.with_suffix(".log").open("rb") as log:
            log.seek(began)
            return log.read().decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return ""


def _spent(pid: int) -> int:
    """Return the whole seconds of CPU time that a process has used."""
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
    """Return whether a server answers with 200 at an address of its Unix socket."""
    return told(path, address) is not None


def told(path: str, address: str) -> Any:
    """Return what a server answers at an address of its Unix socket ({}: nothing); None without an answer of 200."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", address)
        answer = connection.getresponse()
        return (json.loads(answer.read()).get("metadata") or {}) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
