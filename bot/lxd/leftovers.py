"""Removes what interrupted calls left on one LXD server: command output on the host, and partial snapshots."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from bot.lxd.connection import LxdConnection, path_of
from bot.lxd.pool_folder import of_pool, remove_snapshots
from bot.lxd.products import LXD
from bot.lxd.protocol import LxdError

log = logging.getLogger(__name__)

_BEGUN = 5
"""Seconds after which a command that LXD has started is known here."""


class Leftovers:
    """What interrupted calls left on one server. Safe for many threads.

    `unread`: IDs of the commands whose output is still to be read, and so is no leftover.
    """

    def __init__(self, connection: LxdConnection, project: str, pool: str) -> None:
        self.unread: set[str] = set()
        self._lxd = connection
        self._project = project
        self._pool = pool
        self._driver = ""

    def folder(self) -> Path | None:
        """Return the pool's folder, or None where this process cannot reach it."""
        return of_pool(self._lxd.endpoint, self._pool)

    def driver(self) -> str:
        """Return the driver of the pool, such as `btrfs`; the server is asked for it once."""
        if not self._driver:
            found = self._lxd.get(f"storage-pools/{self._pool}", f"look at the pool `{self._pool}`", project=False)
            self._driver = str(found["driver"])
        return self._driver

    def remove_snapshots(self, name: str) -> bool:
        """Remove from the pool what failed snapshots of an instance left; return whether any was removed.

        The remains are subvolumes that LXD does not know: they exist only on btrfs, and can be removed only where the
        pool is on this machine.
        """
        folder = self.folder()
        if folder is None or self.driver() != "btrfs":
            return False

        def known() -> set[str]:
            # Read the names only: sizes take long.
            found = self._lxd.get(f"{path_of(name)}/snapshots", f"list the snapshots of `{name}`")
            return {unquote(path.partition("?")[0].rsplit("/", 1)[-1]) for path in found}

        return remove_snapshots(folder, f"{self._project}_{name}", known)

    def would_stay(self) -> bool:
        """Return whether the remains of a failed snapshot would be out of reach, so that no snapshot may fail.

        Incus leaves no remains.
        """
        elsewhere = not self._lxd.endpoint.startswith("/")
        return elsewhere and self._lxd.product == LXD.name and self.driver() == "btrfs"

    def in_the_way(self, name: str) -> LxdError:
        """Return the error that says how to remove such remains where they are out of reach."""
        product, endpoint = self._lxd.product, self._lxd.endpoint
        home = Path(endpoint).parent if endpoint.startswith("/") else Path("/var/lib", product.lower())
        place = f"{home}/storage-pools/{self._pool}/containers-snapshots/{self._project}_{name}/*"
        return LxdError(
            f"{product} could not delete `{name}`: the pool holds snapshots of it that {product} does not know. On its "
            f"host, `btrfs subvolume delete {place}` removes them; then try again."
        )

    def sweep(self, names: Sequence[str]) -> None:
        """Remove what is left of these instances' commands and failed snapshots."""
        self._sweep_output(names)
        busy = str(self._lxd.get("operations", "look for what runs", {"recursion": "1"}, project=False))
        for name in names:
            # What another host is sending may be in the pool before the server knows it.
            if not re.search(rf"/{re.escape(name)}['?/]", busy) and self.remove_snapshots(name):
                log.warning("removed from the pool what failed snapshots of %s left", name)

    def _sweep_output(self, names: Sequence[str]) -> None:
        doing = "look for what commands left"
        left: list[str] = []
        for name in names:
            with suppress(LxdError):
                # Incus has a second folder for them.
                for folder in ("logs", "logs/exec-output"):
                    left += self._lxd.get(f"{path_of(name)}/{folder}", doing)
        left = [path.removeprefix("/1.0/").partition("?")[0] for path in left if "/exec_" in path]
        if not left:
            return
        # After this, commands that began during the listing are known.
        time.sleep(_BEGUN)
        under_way = self._lxd.get("operations", doing, project=False).get("running", [])
        runs = {path.rsplit("/", 1)[-1] for path in under_way} | self.unread
        for path in left:
            if path.rsplit("/exec_", 1)[-1].partition(".")[0] not in runs:
                with suppress(LxdError):
                    self._lxd.request("delete", path, doing)
