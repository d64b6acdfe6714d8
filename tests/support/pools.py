"""The btrfs pool under a real server: made to count whatever earlier tests left, and made to stop counting."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.lxd.gateway import LxdGateway
from tests.support.workspace import eventually


def folder(lxd: LxdGateway) -> Path:
    """The pool's folder, of a server that has its own beside its socket."""
    return Path(lxd.endpoint).parent / "storage-pools" / lxd._pool


def count_anew(lxd: LxdGateway) -> None:
    """Have the pool count, and go on counting: what others have deleted is gone first, as it may end that.

    An instance must have been given a size by then: the server has no quotas before.
    """
    settle(lxd)
    _btrfs("quota", "rescan", "-w", str(folder(lxd)))


def settle(lxd: LxdGateway) -> None:
    """Wait until what was deleted of the pool is gone: until then btrfs may hold up whatever is written down."""
    _delete_now(str(folder(lxd)))


def mark_inconsistent(lxd: LxdGateway, name: str) -> None:
    """Have the kernel mark the pool's quotas inconsistent, and leave nothing else behind.

    A group above that of a running instance, which shares what it has with its image, makes it want a scan.
    """
    root = lxd.root_path(name)
    group = f"0/{_btrfs('inspect-internal', 'rootid', root).strip()}"
    _btrfs("qgroup", "create", "1/0", root)
    _btrfs("qgroup", "assign", "--no-rescan", group, "1/0", root)
    _btrfs("qgroup", "remove", "--no-rescan", group, "1/0", root)
    _btrfs("qgroup", "destroy", "1/0", root)


@contextmanager
def stops_counting(lxd: LxdGateway, name: str) -> Iterator[None]:
    """Let a snapshot of an instance be deleted as a kernel does that counts no big deletion to its end: it stops.

    That is what happens to big tenants since Linux 6.12, with the kernel's own threshold; here it is the lowest.
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
    """Wait until what was deleted of a pool is gone; without the first the kernel lets it lie for half a minute."""
    _btrfs("filesystem", "sync", place)
    _btrfs("subvolume", "sync", place)


def _btrfs(*words: str) -> str:
    # Of the same words some versions say in exit code 1 that a scan is needed, which is what is wanted here.
    return subprocess.run(["btrfs", *words], check=True, capture_output=True, text=True).stdout
