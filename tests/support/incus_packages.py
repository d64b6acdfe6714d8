"""Incus for the tests without installing it: unpacks Debian's packages into a folder and puts that into the PATH.

Debian 12 has Incus in its backports, which need not be enabled: apt runs with its own list of sources and folders,
checks signatures as always, and changes nothing on the machine.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.lxd.products import INCUS
from bot.lxd.protocol import LxdUnavailable

FOLDER = Path("/tmp/mautic-ops-tests-incus")
LIBRARIES = ("libcowsql0", "libraft0")
"""Libraries that `incus-base` needs and LXD's package does not install."""
_SECONDS = 120


@contextmanager
def in_path() -> Iterator[None]:
    """Make `incusd` and `incus` available in the PATH, whether they are installed or not."""
    before = {key: os.environ.get(key) for key in ("PATH", "LD_LIBRARY_PATH")}
    try:
        if shutil.which(INCUS.daemon, path=f"{os.environ['PATH']}:/usr/libexec/incus") is None:
            root = _unpacked()
            programs = f"{root}/usr/libexec/incus:{root}/usr/bin"
            os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
            os.environ["LD_LIBRARY_PATH"] = f"{root}/usr/lib/{_triplet()}"
        else:
            os.environ["PATH"] += ":/usr/libexec/incus"
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _unpacked() -> Path:
    """Return the folder with the unpacked packages; it is made once and kept as a cache."""
    FOLDER.mkdir(exist_ok=True)
    root = FOLDER / "root"
    with (FOLDER / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            part = FOLDER / "packages"
            shutil.rmtree(part, ignore_errors=True)
            (part / "lists").mkdir(parents=True)
            (part / "cache" / "archives" / "partial").mkdir(parents=True)
            _fetch(part)
            for package in part.glob("*.deb"):
                _run("dpkg-deb", "--extract", str(package), str(part / "root"))
            (part / "root").rename(root)
            shutil.rmtree(part)
    return root


def _fetch(folder: Path) -> None:
    """Download the packages into a folder."""
    packages = [*INCUS.packages, *LIBRARIES]
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise LxdUnavailable("Incus is not installed, and only on Debian the tests know where to find it.")
    if release.get("VERSION_CODENAME") != "bookworm":
        _run("apt-get", "-q", "download", *packages, cwd=folder)
        return
    # From the machine's own mirror, with Debian's keys.
    (folder / "backports.list").write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_mirror()} bookworm-backports main\n"
    )
    options = {
        "Dir::Etc::SourceList": folder / "backports.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::http::Timeout": 10,
        "Acquire::Retries": 1,
        "APT::Update::Error-Mode": "any",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    _run(*apt, "update")
    _run(*apt, "download", *packages, cwd=folder)


def _mirror() -> str:
    """Return the mirror from which the machine gets Debian's main archive."""
    told = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
    return next((line for line in told.splitlines() if "security" not in line), "http://deb.debian.org/debian")


def _triplet() -> str:
    return f"{platform.machine()}-linux-gnu"


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines() or ["no reason given"]
        raise LxdUnavailable(f"Incus cannot be fetched: `{command[0]} …` failed ({said[-1]}).") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LxdUnavailable(f"Incus cannot be fetched: {error}.") from error
    return done.stdout
