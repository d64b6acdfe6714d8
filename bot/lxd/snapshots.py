"""Snapshots of the instances of one LXD server, taken and deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from bot.lxd.changes import LxdChanges, in_spite
from bot.lxd.connection import LONG, path_of
from bot.lxd.protocol import LxdError, NotFound, Vanished

log = logging.getLogger(__name__)


class LxdSnapshots(LxdChanges):
    """The part of `LxdGateway` for snapshots."""

    def snapshot(
        self,
        name: str,
        snapshot: str,
        *,
        config: Mapping[str, str] | None = None,
        within: AbstractContextManager[object] | None = None,
        still: bool = False,
        closed: bool = False,
    ) -> None:
        """See `Lxd.snapshot`.

        LXD keeps the instance's own configuration in a snapshot and takes none for it alone: the keys are laid on
        the instance while the snapshot is taken. `within` ends with the copy itself, a matter of milliseconds: after it
        LXD goes through all files of the instance, twice, in search of subvolumes. Incus does not, and `within` lasts
        as long as its operation.
        """
        doing = f"take the snapshot `{snapshot}` of `{name}`"
        body = {"name": snapshot, "stateful": False}
        still = still or (not closed and self.leftovers.would_stay())
        with self._updates.alone(name):
            before: Mapping[str, str] = self._updates.lay_over(name, config, {}) if config else {}
            try:
                with ExitStack() as held:
                    held.enter_context(within or nullcontext())

                    def copied() -> bool:
                        there = self._is_copied(name, snapshot)
                        if there:
                            held.close()
                        return there

                    # What stands still does not hear that it may go on.
                    early = within and not still and self.leftovers.driver() in ("btrfs", "zfs")
                    until = copied if early else None
                    with self._still(name) if still else nullcontext():
                        self.connection.change(
                            "post", f"{path_of(name)}/snapshots", doing, body, deadline=LONG, until=until
                        )
            except Vanished:
                self.leftovers.remove_snapshots(name)
                raise
            finally:
                if config:
                    self._updates.lay_over(name, {key: before.get(key) for key in config}, {})

    def _is_copied(self, name: str, snapshot: str) -> bool:
        """Whether the files of a snapshot that is being taken are there; LXD tells no size before (-1).

        Nor does it where no disk has a limit, as quotas tell the size: then nobody knows until it is through.
        """
        try:
            return bool(self.connection.get(path_of(name, snapshot), f"look at the snapshot `{snapshot}`")["size"] >= 0)
        except NotFound:
            return False

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `Lxd.delete_snapshot`."""
        doing = f"delete the snapshot `{snapshot}` of `{name}`"
        with in_spite(lambda: snapshot not in [one.name for one in self.snapshots(name)]):
            self.connection.change("delete", path_of(name, snapshot), doing, deadline=LONG)

    def sweep(self) -> None:
        """See `Lxd.sweep`."""
        self.leftovers.sweep([instance.name for instance in self.instances()])

    @contextmanager
    def _still(self, name: str) -> Iterator[None]:
        """Let a running container stand still, where LXD walks through its files to take a snapshot: on btrfs.

        It looks for subvolumes, and a file that goes away just then ends it, with a part of the snapshot left in the
        pool that it knows nothing of. Of the other kinds of pool it does not walk, or stops the container itself.
        """
        if self.leftovers.driver() != "btrfs" or not self.instance(name).running:
            yield
            return
        try:
            try:
                self.freeze(name)
            except LxdError as error:
                # Something in it may keep itself from being stopped.
                log.warning("%s does not stand still for a snapshot: %s", name, error)
            yield
        finally:
            self.thaw(name)
