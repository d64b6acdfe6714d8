"""Debian as LXD images: what a tenant and the edge are made of, built on this machine, kept in a cache.

All packages are installed here, in a chroot: a container may have no way out.
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
from pathlib import Path

from bot.guest.blueprint.recipe import EDGE, STACK, SUITE, SYSTEM
from bot.lxd.protocol import Lxd

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
MIRROR, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"


class BaseError(Exception):
    """Debian could not be put together; the text is one sentence for a person."""


class Busy(Exception):
    """Another holds the lock."""


def ensure_base(lxd: Lxd, kind: str, cache: Path, progress: Callable[[str], None]) -> str:
    """Return the alias of the image `tenant` or `edge` on the server; build or import it where it is missing."""
    alias = _alias(kind)
    # One at a time: another may be about to build it, or to import it by another member of the cluster.
    with alone(cache / "base.lock"):
        if lxd.image(alias) is None:
            path = _cached(kind, cache, progress)
            progress(f"importing the {kind} image")
            lxd.import_image(str(path), alias, {"os": "Debian", "release": SUITE, "description": f"Base of the {kind}"})
    return alias


def prepare(cache: Path, progress: Callable[[str], None]) -> None:
    """Have the images in the cache, so that who needs one next only imports it."""
    with alone(cache / "base.lock"):
        for kind in ("tenant", "edge"):
            _cached(kind, cache, progress)


@contextmanager
def alone(lock: Path, *, wait: bool = True, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock that any thread of any process of this machine may hold one at a time.

    Where another holds it `waiting` is called before it is waited for; without `wait` raise Busy.
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


def _alias(kind: str) -> str:
    return f"mautic-ops-{kind}-{_digest()}"


def _cached(kind: str, cache: Path, progress: Callable[[str], None]) -> Path:
    path = cache / f"{_alias(kind)}.tar.zst"
    if not path.exists():
        _build(cache, progress)
    return path


def _digest() -> str:
    return hashlib.sha256(repr((SUITE, SYSTEM, STACK, EDGE)).encode()).hexdigest()[:12]


def mirrors(sources: str) -> tuple[str, str]:
    """Return the Debian mirror and the security mirror that a host's apt sources name, or Debian's own."""
    urls = re.findall(r"https?://\S+", re.sub(r"^\s*#.*$", "", sources, flags=re.MULTILINE))
    debian = [url.rstrip("/") for url in urls if url.rstrip("/").endswith("/debian")]
    security = [url.rstrip("/") for url in urls if url.rstrip("/").endswith("/debian-security")]
    return (debian or [MIRROR])[0], (security or [SECURITY])[0]


def _host_sources() -> str:
    files = [HOST_SOURCES[0], *HOST_SOURCES[1].glob("*")]
    return "\n".join(path.read_text(errors="replace") for path in files if path.is_file())


def _build(cache: Path, progress: Callable[[str], None]) -> None:
    """Make both image tarballs; nothing half made keeps a tarball's name."""
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
        # Nobody misses a half-written package of a folder that is thrown away then, so dpkg need not sync each file.
        (root / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
        (root / "etc/dpkg/dpkg.cfg.d/mautic-ops").write_text(
            "force-unsafe-io\nno-debsig\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
            "path-exclude=/usr/share/locale/*\npath-exclude=/usr/share/mysql/*/errmsg.sys\n"
            "path-include=/usr/share/mysql/english/errmsg.sys\n"
        )
        progress("installing Debian")
        keyring = [f"--keyring={KEYRING}"] if KEYRING.exists() else []
        _run(["debootstrap", "--variant=minbase", *keyring, f"--include={','.join(SYSTEM)}", SUITE, str(root), mirror])
        (root / "etc/apt/sources.list").write_text(
            f"deb {mirror} {SUITE} main\ndeb {mirror} {SUITE}-updates main\ndeb {security} {SUITE}-security main\n"
        )
        # Packages must not start their services in a chroot.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        _chroot(root, "apt-get", "-q", "update")
        _chroot(root, "apt-get", "-qy", "--no-install-recommends", "dist-upgrade")
        edge.parent.mkdir()
        _run(["cp", "-a", "--reflink=auto", str(root), str(edge)])
        progress("installing Caddy")
        _install(edge, EDGE)
        _pack(edge.parent, cache / f"{_alias('edge')}.tar.zst")
        progress("installing nginx, PHP and MariaDB")
        _install(root, STACK)
        progress("packing the images")
        _pack(root.parent, cache / f"{_alias('tenant')}.tar.zst")
    finally:
        _clear(work)


def _clear(work: Path) -> None:
    """Delete a folder that Debian was put together in; what debootstrap mounted there when it was killed, first."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([point for point in mounted if point.startswith(f"{work.resolve()}/")]):
        _run(["umount", "--lazy", point])
    shutil.rmtree(work)


def _install(root: Path, packages: Sequence[str]) -> None:
    _chroot(root, "apt-get", "-qy", "--no-install-recommends", "install", *packages)


def _pack(folder: Path, target: Path) -> None:
    """Turn `folder`/rootfs into LXD's unified image tarball."""
    root = folder / "rootfs"
    shutil.rmtree(root / "var/lib/apt/lists")
    for pattern in ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/log/*.log", "var/log/apt/*"):
        for path in root.glob(pattern):
            path.unlink()
    (root / "usr/sbin/policy-rc.d").unlink()
    # Without /etc/hostname systemd keeps the name that LXD gives; an empty machine-id is made anew at each first boot.
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").write_text("")
    machine = os.uname().machine
    # LXD 5.0 dies of an image that has no properties of its own but is given some at its import.
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
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        last = done.stdout.strip().splitlines()[-1:] or [""]
        raise BaseError(f"{Path(command[0]).name} ended with {done.returncode} while Debian was installed: {last[0]}")
