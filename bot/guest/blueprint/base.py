"""Builds the Debian images for tenants and the edge on this machine, and keeps them in a cache.

All packages are installed here, in a chroot, because a container may have no access to the internet.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bot.guest.blueprint.recipe import EDGE, FIRST_SUITE, SYSTEM, Suite
from bot.lxd import packages as tools
from bot.lxd.protocol import Lxd
from bot.model.debian import packages

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
SECURITY_FILE = "usr/lib/mautic-ops/security"
"""Lists in an image the versions that the security archive had at its build: one package and its version per line."""
MIRROR, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"


class BaseError(Exception):
    """The Debian images could not be built; the text is one sentence for a person."""


class Busy(Exception):
    """Another thread or process holds the lock."""


def ensure_base(
    lxd: Lxd,
    kind: str,
    cache: Path,
    progress: Callable[[str], None],
    suite: Suite = FIRST_SUITE,
    newer: float = 0.0,
) -> str:
    """Return the alias of the image `tenant` or `edge` on the server; build or import it if it is missing.

    `newer`: images whose packages were installed before this moment (epoch seconds) are too old.
    """
    # One at a time: another may be building the image, or importing it through another member of the cluster.
    with alone(cache / "base.lock"):
        # An image on the server is good enough even if its file is no longer in the cache.
        if not newer and lxd.image(first := _alias(kind, suite)) is not None and not _files(kind, suite, cache):
            return first
        path = _cached(kind, suite, cache, progress, newer)
        alias = path.name.removesuffix(_ENDS)
        if lxd.image(alias) is None:
            progress(f"importing the {kind} image")
            said = {"os": "Debian", "release": suite.name, "description": f"Base of the {kind}"}
            lxd.import_image(str(path), alias, said)
    return alias


def prepare(cache: Path, progress: Callable[[str], None]) -> None:
    """Build the images that the cache lacks, so that the next operation that needs one only imports it."""
    with alone(cache / "base.lock"):
        for kind in ("tenant", "edge"):
            _cached(kind, FIRST_SUITE, cache, progress)


@contextmanager
def alone(lock: Path, *, wait: bool = True, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock that only one thread of all processes on this machine can hold at a time.

    If another holds it, call `waiting` and wait for the lock; without `wait`, raise Busy.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise Busy(lock.name) from error
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


_ENDS = ".tar.zst"
SLACK = 3600.0
"""Seconds that may pass between the installation of an image's packages and its packing."""


def _alias(kind: str, suite: Suite) -> str:
    """Return the image's name; a later build for newer packages has its time (UTC, to the minute) after it."""
    told = repr((suite.name, SYSTEM, suite.stack, EDGE))
    return f"mautic-ops-{kind}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _files(kind: str, suite: Suite, cache: Path) -> list[Path]:
    """Return the images of a kind in the cache, oldest first."""
    return sorted(cache.glob(f"{_alias(kind, suite)}*{_ENDS}"), key=lambda path: path.stat().st_mtime)


def _cached(kind: str, suite: Suite, cache: Path, progress: Callable[[str], None], newer: float = 0.0) -> Path:
    found = _files(kind, suite, cache)
    if not found or (newer and found[-1].stat().st_mtime < newer + SLACK):
        _build(suite, cache, progress, f"-{datetime.now(UTC):%Y%m%d%H%M}" if found else "")
        found = _files(kind, suite, cache)
    return found[-1]


def mirrors(sources: str) -> tuple[str, str]:
    """Return the Debian mirror and the security mirror that a host's apt sources name, or Debian's own."""
    urls = re.findall(r"https?://\S+", re.sub(r"^\s*#.*$", "", sources, flags=re.MULTILINE))
    debian = [url.rstrip("/") for url in urls if url.rstrip("/").endswith("/debian")]
    security = [url.rstrip("/") for url in urls if url.rstrip("/").endswith("/debian-security")]
    return (debian or [MIRROR])[0], (security or [SECURITY])[0]


def _host_sources() -> str:
    files = [HOST_SOURCES[0], *HOST_SOURCES[1].glob("*")]
    return "\n".join(path.read_text(errors="replace") for path in files if path.is_file())


def _build(suite: Suite, cache: Path, progress: Callable[[str], None], day: str = "") -> None:
    """Build the image tarballs, the edge's for FIRST_SUITE only; a half-finished file never gets a tarball's name.

    `day`: appended to the names.
    """
    # A server that was there before the bot, or that is on another machine, came without them.
    try:
        tools.provide(tools.BUILDS, progress)
    except tools.CannotInstall as error:
        progress(str(error))
    missing = [tool for tool in ("debootstrap", "zstd") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        need = f"install {' and '.join(missing)}" if missing else "run this as root"
        raise BaseError(f"Debian is put together with debootstrap: {need}, or set blueprint.base to an image.")
    for left in cache.glob("building-*"):
        _clear(left)
    work = cache / f"building-{os.getpid()}"
    root, edge = work / "tenant" / "rootfs", work / "edge" / "rootfs"
    mirror, security = mirrors(_host_sources())
    try:
        # If the build is interrupted, the folder is thrown away, so dpkg need not sync each file.
        (root / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
        (root / "etc/dpkg/dpkg.cfg.d/mautic-ops").write_text(
            "force-unsafe-io\nno-debsig\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
            "path-exclude=/usr/share/locale/*\npath-exclude=/usr/share/mysql/*/errmsg.sys\n"
            "path-include=/usr/share/mysql/english/errmsg.sys\n"
        )
        progress("installing Debian")
        keyring = [f"--keyring={KEYRING}"] if KEYRING.exists() else []
        system = f"--include={','.join(SYSTEM)}"
        _run(["debootstrap", "--variant=minbase", *keyring, system, suite.name, str(root), mirror])
        (root / "etc/apt/sources.list").write_text(
            f"deb {mirror} {suite} main\ndeb {mirror} {suite}-updates main\ndeb {security} {suite}-security main\n"
        )
        # Packages must not start their services in a chroot.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        _chroot(root, "apt-get", "-q", "update")
        _chroot(root, "apt-get", "-qy", "--no-install-recommends", "dist-upgrade")
        if suite == FIRST_SUITE:
            edge.parent.mkdir()
            _run(["cp", "-a", "--reflink=auto", str(root), str(edge)])
            progress("installing Caddy")
            _install(edge, EDGE)
            _pack(edge.parent, cache / f"{_alias('edge', suite)}{day}{_ENDS}")
        progress("installing nginx, PHP and MariaDB")
        _install(root, suite.stack)
        progress("packing the images")
        _note_security(root)
        _pack(root.parent, cache / f"{_alias('tenant', suite)}{day}{_ENDS}")
    finally:
        _clear(work)


def _clear(work: Path) -> None:
    """Delete a build folder, after unmounting what a killed debootstrap left mounted in it."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([point for point in mounted if point.startswith(f"{work.resolve()}/")]):
        _run(["umount", "--lazy", point])
    shutil.rmtree(work)


def _install(root: Path, packages: Sequence[str]) -> None:
    _chroot(root, "apt-get", "-qy", "--no-install-recommends", "install", *packages)


def _note_security(root: Path) -> None:
    """Record which versions of the installed packages Debian's security archive has today: see `bot.fleet.bases`."""
    installed = {name for name, _ in packages((root / "var/lib/dpkg/status").read_text())}
    lines = [
        f"{name} {version}\n"
        for listed in sorted((root / "var/lib/apt/lists").glob("*security*_Packages"))
        for name, version in packages(listed.read_text())
        if name in installed
    ]
    (root / SECURITY_FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / SECURITY_FILE).write_text("".join(lines))


def _pack(folder: Path, target: Path) -> None:
    """Turn `folder`/rootfs into LXD's unified image tarball."""
    root = folder / "rootfs"
    shutil.rmtree(root / "var/lib/apt/lists")
    for pattern in ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/log/*.log", "var/log/apt/*"):
        for path in root.glob(pattern):
            path.unlink()
    (root / "usr/sbin/policy-rc.d").unlink()
    # Without /etc/hostname systemd keeps the name that LXD sets; an empty machine-id is generated at each first boot.
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").write_text("")
    machine = os.uname().machine
    # LXD 5.0 crashes on an image without properties of its own that is given some at its import.
    (folder / "metadata.yaml").write_text(
        f"architecture: {machine}\ncreation_date: {int(time.time())}\nproperties: {{os: Debian}}\n"
    )
    part = target.with_suffix(".part")
    _run(["tar", "--numeric-owner", "--use-compress-program=zstd -1 -T0", "-C", str(folder), "-cf", str(part),
          "metadata.yaml", "rootfs"])  # fmt: skip
    part.rename(target)


def _chroot(root: Path, *command: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    _run(["chroot", str(root), "env", *(f"{key}={value}" for key, value in environment.items()), *command])


def _run(command: list[str]) -> None:
    # Our PYTHON* variables are not for Debian's Python: it would write its bytecode where ours does, to a path that
    # belongs to this machine.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    if done.returncode != 0:
        last = done.stdout.strip().splitlines()[-1:] or [""]
        raise BaseError(f"{Path(command[0]).name} ended with {done.returncode} while Debian was installed: {last[0]}")
