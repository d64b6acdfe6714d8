"""Whether a server can run on this machine, and which one; installs a server where none is installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from bot.lxd import packages
from bot.lxd.local.shared import Progress
from bot.lxd.packages import CannotInstall
from bot.lxd.products import INCUS, LXD, PRODUCTS, Product, at
from bot.lxd.protocol import LxdUnavailable

SYSTEM_SOCKETS = tuple(socket for product in PRODUCTS for socket in product.sockets)
"""The sockets of the distribution's servers."""


def service_manager() -> bool:
    """Return whether systemd runs here."""
    return Path("/run/systemd/system").exists()


def refuse_where_impossible() -> None:
    """Raise LxdUnavailable, with the reason, where no server can run on this machine."""
    instead = "try `make up LXD=simulated`, or point the bot at an LXD or Incus server"
    if sys.platform != "linux":
        raise LxdUnavailable(f"LXD and Incus run on Linux only, and this is {sys.platform}; {instead}.")
    if os.geteuid() != 0:
        for path in SYSTEM_SOCKETS:
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


def install(progress: Progress, wanted: Product | None = None) -> Product:
    """Install what is missing of a server and its tools; return the server's product.

    The product is `wanted`, else the installed one, else the one that the distribution offers. Raises LxdUnavailable
    where the installation fails.
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
            snap = product is LXD and shutil.which("snap") is not None and service_manager()
            packages.install(product.packages, snap=snap)
    except CannotInstall as error:
        raise LxdUnavailable(f"The server could not be installed: {error}") from error
    return product


def _offered() -> Product:
    """Return the product that the distribution offers.

    That is LXD, but Incus from Debian 13 on (the last Debian with LXD), and where there is no LXD. Raises
    LxdUnavailable where there is neither.
    """
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    # Debian testing has no version number.
    incus_first = system.get("ID") == "debian" and system.get("VERSION_ID", "13") not in ("11", "12")
    if not incus_first and shutil.which("snap") and service_manager():
        return LXD
    for product in (INCUS, LXD) if incus_first else (LXD, INCUS):
        if not subprocess.run(["apt-cache", "show", product.packages[0]], capture_output=True, check=False).returncode:
            return product
    raise LxdUnavailable("This system's package sources have neither LXD nor Incus: install one, then try again.")
