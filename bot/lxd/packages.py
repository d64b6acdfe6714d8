"""The packages that the bot needs from the distribution, and their installation.

    python3 -m bot.lxd.packages            (what `make .venv` needs)

This is the only list of them: `make up` installs `TOOLS`, and the suite's list (`tests/support/packages.py`) includes
it. The module uses only the standard library, because it also runs before there is a `.venv`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

APT = ("apt-get", "--quiet", "--yes", "--no-install-recommends")


def path() -> str:
    """Return where programs are looked for: the PATH of cron and services has fewer folders than a person's."""
    # The last is where Debian has `incusd`.
    more = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/snap/bin", "/usr/libexec/incus")
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *more))


class CannotInstall(Exception):
    """A package cannot be installed here; the text is one sentence that says which, and why."""


@dataclass(frozen=True)
class Package:
    """A Debian package, and what it is needed for.

    Args:
        programs: the programs that it provides; the package is there when all of them are.
        also: returns whether what is not a program is there too.
    """

    name: str
    programs: tuple[str, ...] = ()
    also: Callable[[], bool] = lambda: True

    def there(self) -> bool:
        """Return whether this machine has what the package provides, wherever it came from."""
        return all(shutil.which(program, path=path()) for program in self.programs) and self.also()


def _keyring() -> bool:
    return Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists()


def _venv() -> bool:
    return importlib.util.find_spec("ensurepip") is not None


PYTHON = (Package("python3-venv", also=_venv),)
BUILDS = (
    Package("debootstrap", ("debootstrap",)),
    # Without it Ubuntu's debootstrap checks no signature of Debian's.
    Package("debian-archive-keyring", also=_keyring),
    Package("zstd", ("zstd",)),
)
"""What building a blueprint needs, wherever its server is."""
TOOLS = (
    Package("nftables", ("nft",)),
    Package("iproute2", ("ip", "tc")),
    Package("dnsmasq-base", ("dnsmasq",)),
    Package("btrfs-progs", ("btrfs", "mkfs.btrfs")),
    *BUILDS,
)
"""What LXD or Incus needs here, installed first: a daemon that starts without nftables takes a firewall without ACLs.
"""


def missing(packages: Iterable[Package]) -> list[str]:
    """Return the names of the packages that are not there, in their order."""
    return [package.name for package in packages if not package.there()]


def refuse_where_none_can_be_installed(names: Sequence[str]) -> None:
    """Raise CannotInstall where there is no apt-get, or this is not root."""
    if shutil.which("apt-get") is None:
        listed = ", ".join(names)
        raise CannotInstall(f"This is neither Debian nor Ubuntu: install {listed} by hand, then try again.")
    if os.geteuid() != 0:
        raise CannotInstall(f"Something is not installed, and only root may: `apt-get install {' '.join(names)}`.")


def provide(packages: Iterable[Package], progress: Callable[[str], None]) -> None:
    """Install what is missing where that is possible; raises CannotInstall where it fails.

    Elsewhere the code that needs a package reports that it is missing.
    """
    names = missing(packages)
    if names and os.geteuid() == 0 and shutil.which("apt-get"):
        progress(f"installing {', '.join(names)}")
        update()
        install(names)


def update() -> None:
    """Update the lists of the distribution's packages."""
    _run([*APT, "update"])


def install(names: Sequence[str], *, snap: bool = False) -> None:
    """Install packages by their names; `snap`: as snaps."""
    _run(["snap", "install", *names] if snap else [*APT, "install", *names])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise CannotInstall(f"`{' '.join(command)}` failed ({said.rstrip('.')}).")


if __name__ == "__main__":
    try:
        if wanted := missing(PYTHON):
            refuse_where_none_can_be_installed(wanted)
            update()
            install(wanted)
    except CannotInstall as error:
        sys.exit(f"mautic-ops: {error}")
