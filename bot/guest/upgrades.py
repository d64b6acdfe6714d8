"""What an upgrade does inside a tenant, by way of the in-tenant tool: a release staged beside, swapped, migrated."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from bot.guest.blueprint.archive import Archive
from bot.guest.mautic import Mautic
from bot.guest.upgrade_answers import CACHE
from bot.model.evidence import OF_CLIENTS

log = logging.getLogger(__name__)
ARCHIVE, PACKED = "/root/release", "/root/cache.tar.gz"
"""Where the tool finds what is pushed."""
PATIENCE = 600.0
"""Seconds that a step may take which is none of migrations."""
MIGRATIONS = 3600
"""Seconds that migrations may take."""


WORDS = 200
"""Characters of what Mautic said that a sentence has."""
FAILED = re.compile(r"\[error\] Migration \S+ failed during .*?Error: (?P<why>.+)")
"""What Doctrine says of the migration that failed; what was tried after it comes later."""
USAGE = re.compile(r"doctrine:migrations:\w+ \[")


def problem(done: Mapping[str, Any]) -> str:
    """Return what is wrong by an answer of `Upgrades.upgrade`, in a sentence; "": nothing, the upgrade is done."""
    if not done["migrated"]["done"]:
        return f"The migrations failed: {reason(done['migrated']['output'])[:WORDS]}"
    if not done["up_to_date"]:
        return "Mautic says that its database is not up to date after the migrations."
    if broken := [path for path, one in done["assets"].items() if not 200 <= one["status"] < 400]:
        return f"The login page does not have all that it needs: {', '.join(broken[:3])}."
    return ""


def reason(output: str) -> str:
    """Return why migrations failed, of all that was said: Symfony's console ends an error with the command's usage."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if failed := FAILED.search(line):
            return failed["why"].strip('"')
    told = [line for line in lines if not USAGE.search(line)]
    return told[-1] if told else "Mautic said nothing"


def fewer(done: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the tables of a client's that have fewer rows after an upgrade than before, with both counts."""
    return {name: (had, done["has"][name]) for name, had in done["had"].items() if done["has"].get(name, had) < had}


def spoiled(done: Mapping[str, Any]) -> str:
    """Return `problem`, or which rows of the client's are gone, in a sentence; "": the upgrade is done, and whole."""
    if (wrong := problem(done)) or not (lost := fewer(done)):
        return wrong
    told = ", ".join(f"{name} has {now} instead of {before}" for name, (before, now) in lost.items())
    return f"The migrations took rows away: {told}."


def uncounted(done: Mapping[str, Any]) -> list[str]:
    """Return the tables of a client's whose rows took too long to count, before an upgrade or after it."""
    return sorted(OF_CLIENTS - (done["had"].keys() & done["has"].keys()))


class Upgrades:
    """The upgrade of the Mautic in an instance of one host. Answers have the shapes of `bot.guest.answers`.

    `swap`, `warm`, `migrate` and `upgrade` refuse a tenant that is open; the others are for one that serves, too. Each
    may be done again.
    """

    def __init__(self, mautic: Mautic) -> None:
        self.mautic = mautic

    def stage(self, instance: str, archive: Archive) -> dict[str, Any]:
        """Unpack a release beside the one that serves: {version, before, seconds, own}.

        Raises LxdError with the reason where it does not run here, or where there is no room for it.
        """
        self._push(instance, ARCHIVE, archive.path.read_bytes())
        request = {"version": archive.version, "sha256": archive.sha256}
        return self.mautic.call(instance, "stage", request, timeout=PATIENCE)

    def discard(self, instance: str) -> None:
        """Delete what is staged, and the tree of before."""
        self.mautic.call(instance, "discard", {}, timeout=PATIENCE)

    def pack_cache(self, instance: str) -> bytes:
        """Return the compiled cache of an instance, for one that is about to become what it is."""
        tar: bytes = self.mautic.call(instance, "pack_cache", {}, timeout=PATIENCE, limit=CACHE)["tar"]
        return tar

    def lay_cache(self, instance: str, packed: bytes) -> None:
        """Lay a packed cache into what is staged; raises LxdError where it is of another version, or plugins."""
        self._push(instance, PACKED, packed)
        self.mautic.call(instance, "lay_cache", {}, timeout=PATIENCE)

    def record(self, instance: str) -> int:
        """Record migrations as done where none is recorded, before the swap; returns how many."""
        recorded: int = self.mautic.call(instance, "record", {}, timeout=PATIENCE)["recorded"]
        return recorded

    def swap(self, instance: str, version: str) -> dict[str, Any]:
        """Have the staged tree serve, with what the client had: {version, before, seconds}. PHP is down then."""
        return self.mautic.call(instance, "swap", {"version": version}, timeout=PATIENCE)

    def warm(self, instance: str) -> float:
        """Make the compiled cache anew; returns its seconds."""
        seconds: float = self.mautic.call(instance, "warm", {}, timeout=PATIENCE)["seconds"]
        return seconds

    def migrate(self, instance: str, seconds: int = MIGRATIONS) -> dict[str, Any]:
        """Run what is new: {done, code, ran, skipped, unregistered, rows, seconds, output}; look at `done`."""
        return self.mautic.call(instance, "migrate", {"seconds": seconds}, timeout=seconds + PATIENCE)

    def up_to_date(self, instance: str) -> dict[str, Any]:
        """Ask whether all migrations are recorded: {up_to_date, code, new, unregistered}."""
        return self.mautic.call(instance, "up_to_date", {}, timeout=PATIENCE)

    def reload(self, instance: str) -> None:
        """Tell Mautic of its plugins, and start PHP."""
        self.mautic.call(instance, "reload", {}, timeout=PATIENCE)

    def upgrade(self, instance: str, version: str, seconds: int = MIGRATIONS) -> dict[str, Any]:
        """Do all from the swap to the first page in one go: {version, phases, carried, migrated, up_to_date?, assets?,
        had, has}.

        Look at it with `problem` and `fewer`; raises LxdError where another step than the migrations fails.
        """
        request = {"version": version, "seconds": seconds, "tables": sorted(OF_CLIENTS)}
        done = self.mautic.call(instance, "upgrade", request, timeout=seconds + 2 * PATIENCE)
        if not done["migrated"]["done"]:
            # The container in which it failed is deleted.
            log.warning("the migrations in %s failed: %s", instance, done["migrated"]["output"])
        return done

    def assets(self, instance: str) -> dict[str, dict[str, Any]]:
        """Look at the login page and what it links to, inside: {path: {status, bytes, seconds}}."""
        found: dict[str, dict[str, Any]] = self.mautic.call(instance, "assets", {}, timeout=PATIENCE)["assets"]
        return found

    def evidence(self, instance: str, since: float = 0, patience: float = 5) -> dict[str, Any]:
        """Tell what it is made of: {version, php, mariadb, schema, whole, counts, uncounted, migrations, plugins, own,
        errors}.

        Args:
            since: epoch seconds from when on errors of its log count.
            patience: seconds that one table may be counted for.
        """
        return self.mautic.call(instance, "evidence", {"since": since, "patience": patience}, timeout=PATIENCE)

    def _push(self, instance: str, path: str, content: bytes) -> None:
        """To write into a pipe that a tenant left there would take for ever."""
        self.mautic.lxd.remove(instance, path)
        self.mautic.lxd.push(instance, path, content)
