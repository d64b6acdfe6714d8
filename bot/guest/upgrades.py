"""Runs the steps of an upgrade inside a tenant: a release is staged beside the serving one, swapped in and migrated."""

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
"""Where the tool finds the files that are pushed."""
PATIENCE = 600.0
"""Seconds that a step other than migrations may take."""
MIGRATIONS = 3600
"""Seconds that migrations may take."""


WORDS = 200
"""Characters of Mautic's output that a sentence quotes."""
FAILED = re.compile(r"\[error\] Migration \S+ failed during .*?Error: (?P<why>.+)")
"""Doctrine's line about the migration that failed; later lines are about what was tried after it."""
USAGE = re.compile(r"doctrine:migrations:\w+ \[")


def problem(done: Mapping[str, Any]) -> str:
    """Return in a sentence what is wrong according to an answer of `Upgrades.upgrade`; "": the upgrade is done."""
    if not done["migrated"]["done"]:
        return f"The migrations failed: {reason(done['migrated']['output'])[:WORDS]}"
    if not done["up_to_date"]:
        return "Mautic says that its database is not up to date after the migrations."
    if broken := [path for path, one in done["assets"].items() if not 200 <= one["status"] < 400]:
        return f"The login page does not have all that it needs: {', '.join(broken[:3])}."
    return ""


def reason(output: str) -> str:
    """Return why migrations failed, by their output; Symfony's console ends an error with the command's usage."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if failed := FAILED.search(line):
            return failed["why"].strip('"')
    told = [line for line in lines if not USAGE.search(line)]
    return told[-1] if told else "Mautic said nothing"


def fewer(done: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the client's tables that have fewer rows after an upgrade than before, with both counts."""
    return {name: (had, done["has"][name]) for name, had in done["had"].items() if done["has"].get(name, had) < had}


def spoiled(done: Mapping[str, Any]) -> str:
    """Return `problem`, or a sentence about the client's rows that are gone; "": the upgrade is done and complete."""
    if (wrong := problem(done)) or not (lost := fewer(done)):
        return wrong
    told = ", ".join(f"{name} has {now} instead of {before}" for name, (before, now) in lost.items())
    return f"The migrations took rows away: {told}."


def uncounted(done: Mapping[str, Any]) -> list[str]:
    """Return the client's tables whose rows took too long to count, before or after an upgrade."""
    return sorted(OF_CLIENTS - (done["had"].keys() & done["has"].keys()))


class Upgrades:
    """The upgrade of the Mautic in an instance of one host. Answers have the shapes of `bot.guest.answers`.

    `swap`, `warm`, `migrate` and `upgrade` refuse a tenant that is open; the others accept one that serves. Each may be
    repeated.
    """

    def __init__(self, mautic: Mautic) -> None:
        self.mautic = mautic

    def stage(self, instance: str, archive: Archive) -> dict[str, Any]:
        """Unpack a release beside the one that serves: {version, before, seconds, own}.

        Raises LxdError with the reason if the release does not run here, or if there is no free space for it.
        """
        self._push(instance, ARCHIVE, archive.path.read_bytes())
        request = {"version": archive.version, "sha256": archive.sha256}
        return self.mautic.call(instance, "stage", request, timeout=PATIENCE)

    def discard(self, instance: str) -> None:
        """Delete the staged tree, and the one that served before the last swap."""
        self.mautic.call(instance, "discard", {}, timeout=PATIENCE)

    def pack_cache(self, instance: str) -> bytes:
        """Return the packed compiled cache of an instance, for another that is about to get the same release."""
        tar: bytes = self.mautic.call(instance, "pack_cache", {}, timeout=PATIENCE, limit=CACHE)["tar"]
        return tar

    def lay_cache(self, instance: str, packed: bytes) -> None:
        """Put a packed cache into the staged tree; raises LxdError if it does not fit that tree."""
        self._push(instance, PACKED, packed)
        self.mautic.call(instance, "lay_cache", {}, timeout=PATIENCE)

    def record(self, instance: str) -> int:
        """Record all migrations as done if none is recorded, before the swap; return how many were recorded."""
        recorded: int = self.mautic.call(instance, "record", {}, timeout=PATIENCE)["recorded"]
        return recorded

    def swap(self, instance: str, version: str) -> dict[str, Any]:
        """Make the staged tree serve, with the client's data: {version, before, seconds}. PHP is down afterwards."""
        return self.mautic.call(instance, "swap", {"version": version}, timeout=PATIENCE)

    def warm(self, instance: str) -> float:
        """Rebuild the compiled cache; return the seconds that it took."""
        seconds: float = self.mautic.call(instance, "warm", {}, timeout=PATIENCE)["seconds"]
        return seconds

    def migrate(self, instance: str, seconds: int = MIGRATIONS) -> dict[str, Any]:
        """Run the new migrations: {done, code, ran, skipped, unregistered, rows, seconds, output}; check `done`."""
        return self.mautic.call(instance, "migrate", {"seconds": seconds}, timeout=seconds + PATIENCE)

    def up_to_date(self, instance: str) -> dict[str, Any]:
        """Ask whether all migrations are recorded: {up_to_date, code, new, unregistered}."""
        return self.mautic.call(instance, "up_to_date", {}, timeout=PATIENCE)

    def reload(self, instance: str) -> None:
        """Make Mautic reload its plugins, and start PHP."""
        self.mautic.call(instance, "reload", {}, timeout=PATIENCE)

    def upgrade(self, instance: str, version: str, seconds: int = MIGRATIONS) -> dict[str, Any]:
        """Run all steps from the swap to the first page at once: {version, phases, carried, migrated, up_to_date?,
        assets?, had, has}.

        Check the answer with `problem` and `fewer`; raises LxdError if a step other than the migrations fails.
        """
        request = {"version": version, "seconds": seconds, "tables": sorted(OF_CLIENTS)}
        done = self.mautic.call(instance, "upgrade", request, timeout=seconds + 2 * PATIENCE)
        if not done["migrated"]["done"]:
            # The container in which the migrations failed is deleted, so its output is kept here.
            log.warning("the migrations in %s failed: %s", instance, done["migrated"]["output"])
        return done

    def assets(self, instance: str) -> dict[str, dict[str, Any]]:
        """Request the login page and the files that it links, inside: {path: {status, bytes, seconds}}."""
        found: dict[str, dict[str, Any]] = self.mautic.call(instance, "assets", {}, timeout=PATIENCE)["assets"]
        return found

    def evidence(self, instance: str, since: float = 0, patience: float = 5) -> dict[str, Any]:
        """Return what the tenant is made of: {version, php, mariadb, schema, whole, counts, uncounted, migrations,
        plugins, own, errors}.

        Args:
            since: the time from which on errors in Mautic's log count, in epoch seconds.
            patience: seconds that counting one table may take.
        """
        return self.mautic.call(instance, "evidence", {"since": since, "patience": patience}, timeout=PATIENCE)

    def _push(self, instance: str, path: str, content: bytes) -> None:
        """Replace whatever is there with a file: writing into a FIFO that the tenant left would block forever."""
        self.mautic.lxd.remove(instance, path)
        self.mautic.lxd.push(instance, path, content)
