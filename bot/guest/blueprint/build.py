"""Builds blueprints: closed, stopped containers with a snapshot that tenants are cloned from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bot.guest.blueprint.archive import Archive
from bot.guest.blueprint.base import Busy, alone, ensure_base
from bot.guest.blueprint.furniture import furnish
from bot.guest.blueprint.recipe import FIRST_SUITE, Kind, Suite, recipe_digest, recipe_tar
from bot.guest.mautic import Mautic
from bot.lxd.protocol import ExecResult, Instance, Lxd, LxdError
from bot.model.labels import Role, as_labels, label_of, role_of

GOLDEN = "golden"
"""The snapshot that clones are copied from."""
ROOT = "/var/www/mautic"
PACKAGES = "/var/lib/dpkg/status"
"""The status file of dpkg: it changes whenever a package is installed, and at no other time."""
_PREFIX, _UNFINISHED = "blueprint--", "--building"
_HOST = "blueprint.invalid"


@dataclass(frozen=True)
class Blueprint:
    """A blueprint on a server; clones are copied from `<instance>/golden`.

    `archive` and `recipe` are sha256 digests in hexadecimal; `created` is in epoch seconds.
    """

    instance: str
    version: str
    archive: str
    recipe: str
    double: bool
    created: int

    def properties(self) -> dict[str, str]:
        """Return the properties of an exported image."""
        return {
            "os": "Debian",
            "description": f"Mautic {self.version}, closed" + (" (a double, not the real Mautic)" * self.double),
            "mautic-ops.version": self.version,
            "mautic-ops.archive": self.archive,
            "mautic-ops.recipe": self.recipe,
            "mautic-ops.double": str(int(self.double)),
        }


def blueprints(lxd: Lxd) -> list[Blueprint]:
    """Return the finished blueprints, oldest first, in one request."""
    found = [_blueprint(instance) for instance in lxd.instances() if role_of(instance.config) == Role.BLUEPRINT]
    return sorted(found, key=lambda blueprint: blueprint.created)


def export(lxd: Lxd, blueprint: Blueprint, path: Path) -> str:
    """Write a blueprint to a file as an LXD image with its properties; return the image's fingerprint."""
    source = f"{blueprint.instance}/{GOLDEN}"
    return lxd.export_image(source, blueprint.instance, str(path), blueprint.properties())


def build(
    lxd: Lxd,
    archive: Archive,
    *,
    base: str,
    cache: Path,
    progress: Callable[[str], None],
    every: int = 60,
    on_demand: bool = False,
    newer: float = 0.0,
) -> Blueprint:
    """Return the blueprint of an archive by the current recipe; build it if it does not exist.

    Only one is built at a time on this machine, whichever process asks: the second caller waits, and finds it. What an
    earlier try left unfinished is removed first, and a failed build leaves nothing behind.

    Args:
        base: `debootstrap`, or the alias of a Debian image on the server (which then needs access to Debian's mirror).
        cache: where the Debian base is kept, so that the next build is quick.
        progress: is called at each stage, with a few words about it.
        every: minutes after which a tenant's job runs even if it has nothing to do, 0: never.
        on_demand: an operation needs the blueprint; new tenants get another one until a person builds this one.
        newer: a blueprint whose Debian packages were installed before this moment (epoch seconds) is too old.
    """
    with alone(cache / "build.lock", waiting=lambda: progress("waiting for another blueprint that is being built")):
        found = _build(lxd, archive, base, cache, progress, every, on_demand, newer)
        if not on_demand and label_of(lxd.instance(found.instance).config, "on-demand"):
            lxd.update(found.instance, as_labels(on_demand=""))
        return found


def remove_unfinished(lxd: Lxd, cache: Path, before: float) -> list[str]:
    """Remove unfinished blueprints of killed builds that were created before a moment; return their names.

    Nothing is removed while a build runs on this machine. `before` (epoch seconds) spares builds of other machines.
    """
    with suppress(Busy), alone(cache / "build.lock", wait=False):
        left = [
            one.name
            for one in lxd.instances()
            if one.name.startswith(_PREFIX) and not label_of(one.config, "role") and one.created < before
        ]
        for name in left:
            _remove(lxd, name)
        return left
    return []


def _build(
    lxd: Lxd,
    archive: Archive,
    base: str,
    cache: Path,
    progress: Callable[[str], None],
    every: int,
    on_demand: bool,
    newer: float,
) -> Blueprint:
    recipe = recipe_digest(archive.suite)
    name = f"{_PREFIX}{archive.version}-{archive.sha256[:6]}{recipe[:6]}".replace(".", "-").replace("+", "-")
    if newer:
        name += f"-{datetime.now(UTC):%y%m%d%H%M}"
    for instance in lxd.instances():
        if role_of(instance.config) == Role.BLUEPRINT:
            if instance.name == name or (newer and _does(instance, archive, recipe, newer)):
                return _blueprint(instance)
            continue
        if instance.name == name or (instance.name.startswith(_PREFIX) and instance.name.endswith(_UNFINISHED)):
            progress("removing what an earlier build left")
            _remove(lxd, instance.name)
    made = unfinished = name + _UNFINISHED
    image = ensure_base(lxd, "tenant", cache, progress, archive.suite, newer) if base == "debootstrap" else base
    progress("making the container")
    lxd.create(unfinished, image, config={}, devices={})
    try:
        lxd.start(unfinished)
        if base != "debootstrap":
            progress("installing nginx, PHP and MariaDB")
            _must_be(lxd, unfinished, archive.suite)
            install_packages(lxd, unfinished, archive.suite.stack)
        _furnish(lxd, unfinished, archive, progress, every)
        _install(lxd, unfinished, progress)
        installed = run(lxd, unfinished, f"stat -c %Y {PACKAGES}").strip()
        lxd.stop(unfinished, timeout=120)
        facts = as_labels(
            version=archive.version,
            archive=archive.sha256,
            recipe=recipe,
            double=archive.double,
            created=int(time.time()),
            suite=archive.suite.name,
            base=int(installed or 0),
        )
        lxd.update(unfinished, facts | (as_labels(on_demand=True) if on_demand else {}))
        lxd.snapshot(unfinished, GOLDEN)
        lxd.rename(unfinished, name)
        made = name
        # The role makes it a blueprint, so it is set last.
        lxd.update(name, as_labels(role=Role.BLUEPRINT))
    except BaseException:
        with suppress(LxdError):
            # The next build removes what cannot be removed now; this must not hide the reason for the failure.
            _remove(lxd, made)
        raise
    return _blueprint(lxd.instance(name))


def _does(instance: Instance, archive: Archive, recipe: str, newer: float) -> bool:
    told = {fact: label_of(instance.config, fact) for fact in ("archive", "recipe", "base")}
    return (told["archive"], told["recipe"]) == (archive.sha256, recipe) and int(told["base"] or 0) >= newer


def _must_be(lxd: Lxd, name: str, suite: Suite) -> None:
    """Raise LxdError if the image of `blueprint.base` is of another Debian than the release needs."""
    found = run(lxd, name, '. /etc/os-release; echo "${VERSION_CODENAME:-}"').strip()
    if found and found != suite.name:
        raise LxdError(f"The image of `blueprint.base` is Debian {found}, and this release runs on {suite} here.")


def install_packages(lxd: Lxd, name: str, packages: tuple[str, ...]) -> None:
    """Install Debian packages from inside a container, which needs access to Debian's mirror for it."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["--no-install-recommends", "install", "udhcpc", *packages]):
        ended = lxd.execute(name, ["apt-get", "-qy", *command], environment=environment, timeout=900)
        if ended.code != 0:
            raise LxdError(f"`apt-get {command[0]}` failed in `{name}`: {_last(ended)}")


def lay(lxd: Lxd, name: str, kind: Kind, suite: Suite = FIRST_SUITE) -> None:
    """Lay the recipe's files and units over a running container; they take effect at its next boot."""
    lxd.push(name, "/root/recipe.tar", recipe_tar(kind, suite=suite))
    # In an image from elsewhere resolv.conf may be a link to a resolver that is masked now.
    run(lxd, name, "tar -C / -xf /root/recipe.tar; rm /root/recipe.tar /etc/resolv.conf; touch /etc/resolv.conf")


def run(lxd: Lxd, name: str, script: str, *, timeout: int = 300) -> str:
    """Run a shell script in a container and return its output; raise LxdError with its last line if it fails."""
    ended = lxd.execute(name, ["sh", "-euc", script], timeout=timeout)
    if ended.code != 0:
        raise LxdError(f"Inside `{name}`: {_last(ended)}")
    return ended.stdout


def _furnish(lxd: Lxd, name: str, archive: Archive, progress: Callable[[str], None], every: int) -> None:
    """Put the recipe's files and Mautic's own into place, and reboot into them."""
    until(lxd, name, "systemctl is-system-running | grep -Eq 'running|degraded'")
    lay(lxd, name, "tenant", archive.suite)
    furnish(lxd, name, every)
    progress("unpacking Mautic")
    lxd.push(name, "/root/archive", archive.path.read_bytes())
    steps = (
        "umask 022",
        f"rm -rf {ROOT}; mkdir -p {ROOT}; cd {ROOT}",
        "unzip -q /root/archive" if archive.is_zip else "tar --no-same-owner -xf /root/archive",
        # The web updater that older trees have, and the development front controller of 4.x.
        "rm -f /root/archive upgrade.php index_dev.php",
        "mkdir -p var/cache var/logs var/tmp var/spool var/import config media/files/temp media/images",
        "mkdir -p translations themes",
        # The code belongs to root; only what Mautic writes belongs to the web server.
        "chown -R root:root .; chmod -R u+rwX,go+rX,go-w .; chmod +x bin/console",
        "chown -R www-data:www-data config var media translations; chmod 750 config",
        # Mautic can add themes that people upload, but cannot replace the release's.
        "chown root:www-data themes; chmod 1775 themes",
        "install -d /var/lib/mautic-ops",
        "install -d -o www-data -g www-data -m 750 /var/lib/mautic-ops/cron",
        "install -d -o www-data -g www-data -m 700 /var/cache/php-opcache",
        "install -d -o mysql -g adm -m 750 /var/log/mysql",
    )
    run(lxd, name, "\n".join(steps))
    lxd.stop(name)
    lxd.start(name)
    sockets = f"test -S /run/nginx-inside.sock && test -S /run/php/php{archive.suite.php}-fpm.sock"
    until(lxd, name, f"mariadb-admin ping --silent && {sockets}")


def _install(lxd: Lxd, name: str, progress: Callable[[str], None]) -> None:
    """Install Mautic once, warm the caches that a clone's first page reads, and generalise the blueprint."""
    mautic = Mautic(lxd)
    progress("installing Mautic")
    mautic.call(name, "install", {"site_url": f"https://{_HOST}"}, timeout=600)
    progress("warming its caches")
    get = "curl -sf --max-time 120 --unix-socket /run/nginx-inside.sock -H 'X-Forwarded-Proto: https'"
    for page in ("/s/login", "/mtc.js", "/s/login"):
        run(lxd, name, f"{get} -o /root/page http://{_HOST}{page}")
    run(lxd, name, "grep -q _username /root/page; rm /root/page")
    if (status := run(lxd, name, "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/s/login")) != "503":
        raise LxdError(f"The blueprint answers {status} from outside, and must be closed (503).")
    mautic.call(name, "generalise", {}, timeout=300)


def until(lxd: Lxd, name: str, condition: str) -> None:
    """Wait until a shell condition holds inside a container; raise LxdError if it does not within a minute."""
    waiting = f"for _ in $(seq 600); do if {condition}; then exit 0; fi; sleep 0.1; done"
    waiting += "; echo its services do not start >&2; exit 1"
    run(lxd, name, waiting, timeout=90)


def _blueprint(instance: Instance) -> Blueprint:
    facts = {fact: label_of(instance.config, fact) for fact in ("version", "archive", "recipe", "double", "created")}
    return Blueprint(
        instance=instance.name,
        version=facts["version"],
        archive=facts["archive"],
        recipe=facts["recipe"],
        double=facts["double"] == "1",
        created=int(facts["created"] or 0),
    )


def _remove(lxd: Lxd, name: str) -> None:
    lxd.stop(name, force=True)
    lxd.delete(name)


def _last(ended: ExecResult) -> str:
    lines = (ended.stderr + ended.stdout).strip().splitlines()
    return lines[-1][:300] if lines else f"it ended with {ended.code}"
