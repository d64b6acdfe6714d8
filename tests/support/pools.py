"""Controls the btrfs pool of a real server: makes its quotas count again after earlier tests, or stop counting."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.lxd.gateway import LxdGateway
from tests.support.workspace import eventually


def folder(lxd: LxdGateway) -> Path:
    """Return the pool's folder, for a server that keeps it beside its socket."""
    return Path(lxd.endpoint).parent / "storage-pools" / lxd._pool


def count_anew(lxd: LxdGateway) -> None:
    """Make the pool's quotas count, and keep counting: deletions by earlier tests, which may stop that, finish first.

    An instance must have a size by then: before, the pool has no quotas.
    """
    settle(lxd)
    _btrfs("quota", "rescan", "-w", str(folder(lxd)))


def settle(lxd: LxdGateway) -> None:
    """Wait until deleted data is gone from the pool; until then btrfs may delay every sync to disk."""
    _delete_now(str(folder(lxd)))


def mark_inconsistent(lxd: LxdGateway, name: str) -> None:
    """Make the kernel mark the pool's quotas inconsistent, without any other lasting change.

    A group above that of a running instance, which shares data with its image, makes a rescan necessary.
    """
    root = lxd.root_path(name)
    group = f"0/{_btrfs('inspect-internal', 'rootid', root).strip()}"
    _btrfs("qgroup", "create", "1/0", root)
    _btrfs("qgroup", "assign", "--no-rescan", group, "1/0", root)
    _btrfs("qgroup", "remove", "--no-rescan", group, "1/0", root)
    _btrfs("qgroup", "destroy", "1/0", root)


@contextmanager
def stops_counting(lxd: LxdGateway, name: str) -> Iterator[None]:
    """Delete a snapshot of an instance so that the kernel stops counting, as it does after a deletion that is too big.

    Since Linux 6.12 this happens to big tenants with the kernel's default threshold; here the threshold is the lowest.
    """
    quotas = lxd.quotas(name)
    assert quotas
    assert quotas.counts
    threshold = Path(f"/sys/fs/btrfs/{quotas.filesystem}/qgroups/drop_subtree_threshold")
    before = threshold.read_text()
    lxd.snapshot(name, "deleted")
    threshold.write_text("0")
    try:
        lxd.delete_snapshot(name, "deleted")
        _delete_now(lxd.root_path(name))
        eventually(lambda: lxd.quotas(name) != quotas)
        yield
    finally:
        threshold.write_text(before)


def _delete_now(place: str) -> None:
    """Wait until deleted data is gone from a pool; without the first command it stays for half a minute."""
    _btrfs("filesystem", "sync", place)
    _btrfs("subvolume", "sync", place)


def _btrfs(*words: str) -> str:
    # For the same arguments some versions exit with 1 because a rescan is needed, which is intended here.
    return subprocess.run(["btrfs", *words], check=True, capture_output=True, text=True).stdout
