"""The one list of what the suite, the bench, the lab and the demo need of the distribution.

    python -m tests.support.packages [--required]          (`make test`, `make bench`, `make lab`)

What is missing is installed where it can be. Where it cannot, one sentence says so: tests that need it are skipped, or
fail under REQUIRE_LXD=1; with `--required` nothing begins.
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
    """Whether there is a busybox that runs where there is no C library, as in the tiny image."""
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
    # What the tiny image is made of; Debian's other busybox wants a C library.
    Package("busybox-static", ("busybox",), also=_static),
    # The browser of the chat page's tests.
    Package("chromium", ("chromium",)),
    # The node that playwright brings along.
    Package("libatomic1", also=_atomic),
    # Looks at pages from within a machine of the lab.
    Package("curl", ("curl",)),
    # The second client of the workspace, and Slack's types.
    Package("npm", ("npm", "node")),
    # A database of its own for the questions that are asked of large tenants.
    Package("mariadb-server-core", ("mariadbd", "mariadb-install-db")),
    Package("mariadb-client-core", ("mariadb",)),
    # A key with a password.
    Package("openssl", ("openssl",)),
    *TOOLS,
    LXD,
    # Debian's LXD brings it along; a snap has one of its own.
    Package("lxcfs", ("lxcfs",)),
)
# fmt: off
BASE = frozenset(
    {
        "apt-cache", "apt-get", "awk", "basename", "bash", "cat", "chmod", "chown", "chroot", "cp", "date", "dd",
        "dirname", "dpkg-deb", "dpkg-query", "echo", "env", "false", "find", "grep", "gzip", "head", "id", "ldd", "ln",
        "losetup", "ls", "mkdir", "mktemp", "mount", "mv", "nsenter", "perl", "printf", "readlink", "rm", "sed",
        "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "tar", "touch", "tr", "trap",
        "true", "umount", "uname", "unshare", "wc",
    }
)
# fmt: on
"""What a Debian without any other package has, of what we start."""
ASKED_FOR = frozenset({"git", "make"})
"""What the README asks for beside Python."""
UNPACKED = frozenset({"incus", "incusd"})
"""What `incus_packages.py` puts into the PATH for the time of a test."""


def known(program: str) -> bool:
    """Whether a program is given by a package of the list, or by Debian itself."""
    return program in BASE | ASKED_FOR | UNPACKED or any(program in package.programs for package in SUITE)


def install() -> None:
    """Install what is missing of the list, LXD last. Raises CannotInstall."""
    names = missing(SUITE)
    if not names:
        return
    packages.refuse_where_none_can_be_installed(names)
    print(f"installing {', '.join(names)}", flush=True)
    packages.update()
    if tools := [name for name in names if name != LXD.name]:
        packages.install(tools)
    if LXD.name in names:
        # Ubuntu has LXD as a snap only.
        packages.install([LXD.name], snap=bool(shutil.which("snap")) and Path("/run/systemd/system").exists())


if __name__ == "__main__":
    try:
        install()
    except CannotInstall as error:
        print(f"mautic-ops: {error}", file=sys.stderr)
        if "--required" in sys.argv or os.environ.get("REQUIRE_LXD") == "1":
            sys.exit(1)
        print("mautic-ops: the tests that need it are skipped.", file=sys.stderr)
