"""Defines the recipe of the golden image: its packages, its files, and which units are masked or enabled."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bot.model.releases import Base, Release

Kind = Literal["tenant", "edge"]

FILES = Path(__file__).with_name("files")
"""`system`, then `tenant` or `edge`, are laid over a container's root; the files belong to root, and are executable if
they are so here."""

LOOKS = "usr/local/lib/mautic-ops/guest"
"""The folder in a tenant with the package that decides whether PHP has to be started, and the conditions that it shares
with the tool."""
LOOK_SOURCES = ("mautic_look/*.py", "mautic_ctl/__init__.py", "mautic_ctl/due.py", "mautic_ctl/jobs.py")

FURNITURE = 11
"""The version of what we put into a tenant: its files and units, and what the tool's verb `furnish` does with them. A
tenant without a version has 1. Every change increments it, so that tenants with older furniture can be recognised."""
FIRST = ("etc/nginx/sealed", "etc/nginx/conf.d/edge.conf", "etc/mysql/mariadb.conf.d/90-plan.cnf")
"""Files that only a blueprint gets: a tenant's own depend on its identity and its size."""

PLACEHOLDER = "@PHP@"
"""Placeholder for the version of PHP in the names of packages, and in our files and their names."""


@dataclass(frozen=True)
class Suite:
    """A release of Debian that tenants are made of: its name, and the versions of PHP and MariaDB that it has.

    `lacks`: packages of STACK that the release does not have.
    """

    name: str
    php: str
    mariadb: str
    lacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def filled(self, text: str) -> str:
        """Return a name or a text with the suite's version of PHP in place of PLACEHOLDER."""
        return text.replace(PLACEHOLDER, self.php)

    @property
    def stack(self) -> tuple[str, ...]:
        """The packages that a tenant runs."""
        return tuple(self.filled(package) for package in STACK if package not in self.lacks)

    @property
    def base(self) -> Base:
        """The versions of PHP and MariaDB that the suite offers to Mautic."""
        return Base(*(tuple(int(part) for part in version.split(".")) for version in (self.php, self.mariadb)))


SUITES = (Suite("bookworm", "8.2", "10.11"), Suite("trixie", "8.4", "11.8", (f"php{PLACEHOLDER}-imap",)))
"""The suites that a blueprint may be made of, oldest first: a release of Mautic gets the first that it runs on.

PHP 8.4 no longer includes IMAP, and Debian 13 does not package it: only Mautic's monitored inbox needs it.
"""
FIRST_SUITE = SUITES[0]
"""The suite of the edge, and of tenants whose labels name none."""

SYSTEM = ("systemd", "systemd-sysv", "udhcpc", "iproute2", "ca-certificates")
"""The packages that every container of ours needs to boot."""

STACK = (
    "nginx-light",
    "mariadb-server",
    *(
        f"php{PLACEHOLDER}-{part}"
        for part in ["cli", "fpm", "mysql", "xml", "mbstring", "curl", "zip", "intl", "imap", "gd", "bcmath", "opcache"]
    ),
    "cron",
    "logrotate",
    "python3-minimal",
    "libpython3-stdlib",
    "curl",
    "unzip",
)
"""The packages that a tenant runs. `libpython3-stdlib` is for mautic-ctl, which needs only the standard library."""

EDGE = ("caddy",)

MASKED = (
    # Nobody logs in at a console, and the machine under the container is not ours to set up.
    "console-getty.service",
    "getty.target",
    "systemd-logind.service",
    "systemd-user-sessions.service",
    "systemd-resolved.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-network-generator.service",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-machine-id-commit.service",
    "systemd-remount-fs.service",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-sysusers.service",
    "systemd-firstboot.service",
    "systemd-tmpfiles-setup-dev.service",
    "kmod-static-nodes.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-ask-password-wall.path",
    "systemd-ask-password-console.path",
    "systemd-initctl.socket",
    "procps.service",
    "e2scrub_reap.service",
    "rc-local.service",
    # With it, Debian 13 would keep /tmp in the tenant's memory.
    "tmp.mount",
    "caddy.service",
    # Cron does all scheduled work (/etc/cron.d/mautic), so that a hundred clones do not all wake at their first boot.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "logrotate.timer",
    "phpsessionclean.timer",
    "systemd-tmpfiles-clean.timer",
)
"""Units that our containers do without, because people wait for a boot."""


INSTEAD = {"tenant": (), "edge": ("dhcp.service",)}
"""Units that an earlier recipe enabled; they are masked now."""

ENABLED = {
    "tenant": ("dhcp.service", "mautic-closed.service", "mautic-look.service"),
    "edge": ("network.service", "edge.service"),
}
"""Our units that start at boot."""


def suites_since(name: str) -> tuple[Suite, ...]:
    """Return the suites that a tenant of a suite may be put on: its own and newer ones, as databases cannot go back."""
    return SUITES[SUITES.index(suite_named(name)) :]


def suite_of(release: Release, since: str = "") -> Suite | None:
    """Return the suite that a release of Mautic is put on: the first that it runs on, None if there is none.

    `since`: the present suite of the tenant that gets the release; "": a new tenant.
    """
    return next((one for one in suites_since(since) if release.runs_on(one.base)), None)


def suite_named(name: str) -> Suite:
    """Return a suite by its name; FIRST_SUITE for an empty name, or one that this bot does not know."""
    return next((one for one in SUITES if one.name == name), FIRST_SUITE)


def recipe_digest(suite: Suite = FIRST_SUITE) -> str:
    """Return the sha256 of a tenant's recipe: its files with their modes, the packages, the units."""
    recipe = hashlib.sha256(repr((suite.name, SYSTEM, suite.stack)).encode())
    recipe.update(recipe_tar("tenant", suite=suite))
    return recipe.hexdigest()


def recipe_files(kind: Kind) -> dict[str, Path]:
    """Return the files of a kind of container by their path inside it (without the leading slash), sorted."""
    found = {
        str(path.relative_to(FILES / part)): path
        for part in ("system", kind)
        for path in (FILES / part).rglob("*")
        if path.is_file()
    }
    if kind == "tenant":
        beside = [path for pattern in LOOK_SOURCES for path in FILES.parent.glob(pattern)]
        found |= {f"{LOOKS}/{path.relative_to(FILES.parent)}": path for path in beside}
    return dict(sorted(found.items()))


def furniture_digest() -> str:
    """Return the sha256 of what FURNITURE is the version of: a tenant's files with their modes, and its units."""
    return hashlib.sha256(furniture_tar()).hexdigest()


def furniture_tar() -> bytes:
    """Return a tenant's furniture, without the files that only a blueprint gets, as a tar archive.

    It is the same for every PHP: the tool in the tenant replaces PLACEHOLDER with the version.
    """
    return recipe_tar("tenant", without=FIRST)


def recipe_tar(kind: Kind, without: Sequence[str] = (), suite: Suite | None = None) -> bytes:
    """Return the files, and the links that mask and enable units, as a tar archive to lay over a container's root.

    The same recipe gives the same bytes. Without a suite, PLACEHOLDER is not replaced.
    """
    links = {f"etc/systemd/system/{unit}": "/dev/null" for unit in (*MASKED, *INSTEAD[kind])}
    links["etc/systemd/system/default.target"] = "/lib/systemd/system/multi-user.target"
    for unit in ENABLED[kind]:
        links[f"etc/systemd/system/multi-user.target.wants/{unit}"] = f"/etc/systemd/system/{unit}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in recipe_files(kind).items():
            if name in without:
                continue
            content = path.read_bytes()
            if suite:
                name, content = suite.filled(name), suite.filled(content.decode()).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            tar.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()
