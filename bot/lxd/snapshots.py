"""Takes and deletes snapshots of the instances of one LXD server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from bot.lxd.changes import LxdChanges, ignoring_full_disk
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

        LXD stores the instance's configuration with a snapshot, and accepts no other for the snapshot alone: so the
        keys are laid on the instance while the snapshot is taken. `within` ends with the copy itself, a matter of
        milliseconds; afterwards LXD walks through all files of the instance, twice, in search of subvolumes. Incus does
        not, and `within` lasts as long as its operation.
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

                    # A frozen container cannot notice that `within` has ended.
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
        """Return whether the files of a snapshot that is being taken are there; LXD reports no size before (-1).

        Nor does LXD report one where no disk has a limit, since the size comes from quotas: then nobody knows before
        the end of the operation.
        """
        try:
            return bool(self.connection.get(path_of(name, snapshot), f"look at the snapshot `{snapshot}`")["size"] >= 0)
        except NotFound:
            return False

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `Lxd.delete_snapshot`."""
        doing = f"delete the snapshot `{snapshot}` of `{name}`"
        with ignoring_full_disk(lambda: snapshot not in [one.name for one in self.snapshots(name)]):
            self.connection.change("delete", path_of(name, snapshot), doing, deadline=LONG)

    def sweep(self) -> None:
        """See `Lxd.sweep`."""
        self.leftovers.sweep([instance.name for instance in self.instances()])

    @contextmanager
    def _still(self, name: str) -> Iterator[None]:
        """Freeze a running container where LXD walks through its files to take a snapshot: on btrfs.

        LXD looks for subvolumes. A file that is deleted during the walk makes it fail, and leaves a part of the
        snapshot in the pool that LXD does not know. On other kinds of pool LXD does not walk, or freezes the container
        itself.
        """
        if self.leftovers.driver() != "btrfs" or not self.instance(name).running:
            yield
            return
        try:
            try:
                self.freeze(name)
            except LxdError as error:
                # A process inside may prevent the freeze.
                log.warning("%s does not stand still for a snapshot: %s", name, error)
            yield
        finally:
            self.thaw(name)
