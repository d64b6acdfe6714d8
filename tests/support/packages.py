"""The one list of packages that the suite, the bench, the lab and the demo need from the distribution.

    python -m tests.support.packages [--required]          (`make test`, `make bench`, `make lab`)

Missing packages are installed if possible. If not, one sentence says so, and the tests that need them are skipped, or
fail under REQUIRE_LXD=1; with `--required` nothing is started.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bot.lxd import packages
from bot.lxd.packages import PYTHON, TOOLS, CannotInstall, Package, missing

BUSYBOX = Path("/bin/busybox")


def _static() -> bool:
    """Return whether there is a busybox that runs without a C library, as in the tiny image."""
    return BUSYBOX.exists() and subprocess.run(["ldd", str(BUSYBOX)], capture_output=True, check=False).returncode != 0


def _atomic() -> bool:
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        return False
    return True


LXD = Package("lxd", ("lxd", "lxc"))
SUITE = (
    *PYTHON,
    # The tiny image is made of it; Debian's other busybox needs a C library.
    Package("busybox-static", ("busybox",), also=_static),
    # The browser for the tests of the chat page.
    Package("chromium", ("chromium",)),
    # For the node that comes with playwright.
    Package("libatomic1", also=_atomic),
    # Requests pages from within a machine of the lab.
    Package("curl", ("curl",)),
    # For the second client of the workspace, and for Slack's types.
    Package("npm", ("npm", "node")),
    # A separate database for the queries of large tenants.
    Package("mariadb-server-core", ("mariadbd", "mariadb-install-db")),
    Package("mariadb-client-core", ("mariadb",)),
    # Makes a key with a password.
    Package("openssl", ("openssl",)),
    *TOOLS,
    LXD,
    # It comes with Debian's LXD; a snap has its own.
    Package("lxcfs", ("lxcfs",)),
)
# fmt: off
BASE = frozenset(
    {
        "apt-cache", "apt-get", "awk", "basename", "bash", "cat", "chmod", "chown", "chroot", "cp", "date", "dd",
        "dirname", "dpkg-deb", "dpkg-query", "echo", "env", "false", "find", "flock", "grep", "gzip", "head", "id",
        "ldd", "ln", "losetup", "ls", "mkdir", "mktemp", "mount", "mv", "nsenter", "perl", "printf", "readlink", "rm",
        "sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "tar", "touch", "tr", "trap",
        "true", "umount", "uname", "unshare", "wc",
    }
)
# fmt: on
"""Programs that we start and that every Debian has without further packages."""
ASKED_FOR = frozenset({"git", "make"})
"""Programs that the README requires besides Python."""
UNPACKED = frozenset({"incus", "incusd"})
"""Programs that `incus_packages.py` puts into the PATH for a test."""


def known(program: str) -> bool:
    """Return whether a program comes from a package of the list, or from Debian itself."""
    return program in BASE | ASKED_FOR | UNPACKED or any(program in package.programs for package in SUITE)


def install() -> None:
    """Install the missing packages of the list, LXD last. Raises CannotInstall."""
    names = missing(SUITE)
    if not names:
        return
    packages.refuse_where_none_can_be_installed(names)
    print(f"installing {', '.join(names)}", flush=True)
    packages.update()
    if tools := [name for name in names if name != LXD.name]:
        packages.install(tools)
    if LXD.name in names:
        # On Ubuntu LXD is available only as a snap.
        packages.install([LXD.name], snap=bool(shutil.which("snap")) and Path("/run/systemd/system").exists())


if __name__ == "__main__":
    try:
        install()
    except CannotInstall as error:
        print(f"mautic-ops: {error}", file=sys.stderr)
        if "--required" in sys.argv or os.environ.get("REQUIRE_LXD") == "1":
            sys.exit(1)
        print("mautic-ops: the tests that need it are skipped.", file=sys.stderr)
