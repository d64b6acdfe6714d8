"""What calls that were cut off left on one LXD server: output of commands on the host, and halves of snapshots."""

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
"""Seconds after which a command that LXD began is known here."""


class Leftovers:
    """Safe for many threads. `unread`: ids of the commands whose output is still to be read, and so is none."""

    def __init__(self, connection: LxdConnection, project: str, pool: str) -> None:
        self.unread: set[str] = set()
        self._lxd = connection
        self._project = project
        self._pool = pool
        self._driver = ""

    def folder(self) -> Path | None:
        """Return the pool's folder, or None where it is out of reach."""
        return of_pool(self._lxd.endpoint, self._pool)

    def driver(self) -> str:
        """Return the kind of the pool, as `btrfs`; it is asked for once."""
        if not self._driver:
            found = self._lxd.get(f"storage-pools/{self._pool}", f"look at the pool `{self._pool}`", project=False)
            self._driver = str(found["driver"])
        return self._driver

    def remove_snapshots(self, name: str) -> bool:
        """Remove from the pool what failed snapshots of an instance left; tell whether there was any.

        They are subvolumes that LXD does not know, and so only of btrfs, and only where the pool is on this machine.
        """
        folder = self.folder()
        if folder is None or self.driver() != "btrfs":
            return False

        def known() -> set[str]:
            # Without their sizes, which take long.
            found = self._lxd.get(f"{path_of(name)}/snapshots", f"list the snapshots of `{name}`")
            return {unquote(path.partition("?")[0].rsplit("/", 1)[-1]) for path in found}

        return remove_snapshots(folder, f"{self._project}_{name}", known)

    def would_stay(self) -> bool:
        """Whether what a failed snapshot leaves is out of reach: then none may fail. Incus leaves nothing."""
        elsewhere = not self._lxd.endpoint.startswith("/")
        return elsewhere and self._lxd.product == LXD.name and self.driver() == "btrfs"

    def in_the_way(self, name: str) -> LxdError:
        """Return the error that says how such are removed where they are out of reach."""
        product, endpoint = self._lxd.product, self._lxd.endpoint
        home = Path(endpoint).parent if endpoint.startswith("/") else Path("/var/lib", product.lower())
        place = f"{home}/storage-pools/{self._pool}/containers-snapshots/{self._project}_{name}/*"
        return LxdError(
            f"{product} could not delete `{name}`: the pool holds snapshots of it that {product} does not know. On its "
            f"host, `btrfs subvolume delete {place}` removes them; then try again."
        )

    def sweep(self, names: Sequence[str]) -> None:
        """Remove what is left of these instances."""
        self._sweep_output(names)
        busy = str(self._lxd.get("operations", "look for what runs", {"recursion": "1"}, project=False))
        for name in names:
            # What is on its way here from another host may come before the server knows it.
            if not re.search(rf"/{re.escape(name)}['?/]", busy) and self.remove_snapshots(name):
                log.warning("removed from the pool what failed snapshots of %s left", name)

    def _sweep_output(self, names: Sequence[str]) -> None:
        doing = "look for what commands left"
        left: list[str] = []
        for name in names:
            with suppress(LxdError):
                # Incus has a folder more for them.
                for folder in ("logs", "logs/exec-output"):
                    left += self._lxd.get(f"{path_of(name)}/{folder}", doing)
        left = [path.removeprefix("/1.0/").partition("?")[0] for path in left if "/exec_" in path]
        if not left:
            return
        # What was begun while they were listed is known by now.
        time.sleep(_BEGUN)
        under_way = self._lxd.get("operations", doing, project=False).get("running", [])
        runs = {path.rsplit("/", 1)[-1] for path in under_way} | self.unread
        for path in left:
            if path.rsplit("/exec_", 1)[-1].partition(".")[0] not in runs:
                with suppress(LxdError):
                    self._lxd.request("delete", path, doing)
