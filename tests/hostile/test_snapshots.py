"""Snapshots of a tenant that changes files as fast as it can, or fills the pool by its snapshots, on a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.fleet import ballast
from bot.fleet.inventory import Host
from bot.fleet.starts import StartLimiter
from bot.guest.mautic import Mautic
from bot.lxd import pool_folder
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import LxdError, NotFound, PoolFull
from bot.model.labels import as_labels
from tests.support.real_lxd import LXD_PLACE, PROJECT, TINY

Name = Callable[[], str]

CHURN = """mkdir -p /c
for w in 1 2 3 4; do
    (i=0; while :; do
        mkdir /c/$w.$i; for f in 1 2 3 4 5 6 7 8 9; do echo > /c/$w.$i/$f; done; rm -rf /c/$w.$i; i=$((i + 1))
    done) > /dev/null 2>&1 &
done"""


def _in_pool(lxd: LxdGateway, name: str, project: str = PROJECT) -> Path:
    pool = pool_folder.of_pool(lxd.endpoint, project)
    if pool is None:
        pytest.skip("The server is not on this machine: what is in its pool cannot be seen.")
    return pool / "containers-snapshots" / f"{project}_{name}"


def _orphan(lxd: LxdGateway, name: str, *, read_only: bool) -> Path:
    """Leave what an unfinished snapshot of LXD leaves behind, and return its folder."""
    folder = _in_pool(lxd, name)
    folder.mkdir(mode=0o700, exist_ok=True)
    source = folder.parent.parent / "containers" / folder.name
    flags = ["-r"] if read_only else []
    made = folder / f"orphan-{len(flags)}"
    subprocess.run(["btrfs", "subvolume", "snapshot", *flags, source, made], check=True, capture_output=True)
    return made


def test_a_snapshot_succeeds_and_leaves_nothing_behind_while_files_keep_vanishing(
    real_lxd: LxdGateway, real_name: Name
) -> None:
    name = real_name()
    real_lxd.create(name, TINY, config={}, devices={})
    real_lxd.start(name)
    real_lxd.execute(name, ["sh", "-c", CHURN])
    taken = [f"s{number}" for number in range(8)]
    for snapshot in taken:
        real_lxd.snapshot(name, snapshot, config=as_labels(taken=1), still=True)
    assert [one.name for one in real_lxd.snapshots(name)] == taken
    assert sorted(one.name for one in _in_pool(real_lxd, name).iterdir()) == taken
    assert real_lxd.instance(name).status == "Running"
    real_lxd.execute(name, ["true"])
    real_lxd.stop(name, force=True)
    real_lxd.delete(name)


def test_leftovers_of_failed_snapshots_are_deleted_with_the_instance(real_lxd: LxdGateway, real_name: Name) -> None:
    name = real_name()
    real_lxd.create(name, TINY, config={}, devices={})
    real_lxd.snapshot(name, "known")
    left = [_orphan(real_lxd, name, read_only=read_only) for read_only in (False, True)]
    real_lxd.delete(name)
    assert not any(one.exists() for one in left)


def test_a_sweep_deletes_leftovers_of_failed_snapshots_and_keeps_known_snapshots(
    real_lxd: LxdGateway, real_name: Name
) -> None:
    name = real_name()
    real_lxd.create(name, TINY, config={}, devices={})
    real_lxd.snapshot(name, "known")
    left = _orphan(real_lxd, name, read_only=True)
    real_lxd.sweep()
    assert not left.exists()
    assert [one.name for one in real_lxd.snapshots(name)] == ["known"]
    assert (left.parent / "known").exists()


def test_the_error_says_how_to_remove_leftovers_that_are_out_of_reach(
    real_lxd: LxdGateway, real_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = real_name()
    real_lxd.create(name, TINY, config={}, devices={})
    _orphan(real_lxd, name, read_only=True)
    with monkeypatch.context() as patched:
        patched.setattr(real_lxd.leftovers, "folder", lambda: None)
        patched.setattr(real_lxd, "released", 1.0)
        with pytest.raises(LxdError, match=r"does not know\. On its host, `btrfs subvolume delete /\S+/\*` removes"):
            real_lxd.delete(name)


@pytest.fixture
def small(real_lxd: LxdGateway) -> Iterator[LxdGateway]:
    """A separate pool that one tenant can fill."""
    name = "mautic-ops-past"
    network, subnet = LXD_PLACE.other
    lxd = LxdGateway(real_lxd.endpoint, project=name, pool=name, network=network, profile=name)
    try:
        lxd.ensure_project(pool_driver="btrfs", pool_size="512MiB", subnet=subnet)
        lxd.import_image(str(LXD_PLACE.folder / "tiny.tar.gz"), TINY, {})
        yield lxd
    finally:
        lxd.remove_project()


def test_a_tenant_that_fills_the_pool_is_pruned_stopped_and_archived(
    small: LxdGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballast, "SHARE", 8)
    host = Host("local", "local", small, Mautic(small), StartLimiter(1, 0))
    ballast.keep(host, 64 << 20, 0)
    assert small.instance("ballast-local").config["user.mautic-ops.pieces"] == "4"
    assert not small.instance("ballast-local").running
    small.create("hog", TINY, config={}, devices={})
    small.start("hog")
    for past in ("one", "two"):
        small.execute("hog", ["sh", "-c", "dd if=/dev/urandom of=/a bs=64k count=1500; sync"])
        small.snapshot("hog", past)
    small.execute("hog", ["sh", "-c", "dd if=/dev/urandom of=/a bs=64k; sync; echo x > /b; sync"])
    with pytest.raises(PoolFull):
        small.push("hog", "/more", b"x" * (4 << 20))
    ballast.with_space(host, lambda: small.push("hog", "/little", b"x" * (1 << 20)))
    assert small.instance("ballast-local").config["user.mautic-ops.pieces"] == "3"
    small.execute("hog", ["sh", "-c", "dd if=/dev/urandom of=/c bs=64k; sync"])
    small.delete_snapshot("hog", "one")
    assert [one.name for one in small.snapshots("hog")] == ["two"]
    small.update("hog", as_labels(role="archived"))
    small.isolate("hog")
    small.stop("hog", force=True)
    small.rename("hog", "hog--archived")
    small.delete_snapshot("hog--archived", "two")
    assert small.instance("hog--archived").status == "Stopped"
    assert small.snapshots("hog--archived") == []
    small.delete("hog--archived")


def test_the_project_is_removed_despite_failed_snapshots(small: LxdGateway) -> None:
    """As `make clean-lab` does, which once waited half an hour for each failed snapshot."""
    small.create("left", TINY, config={}, devices={})
    small.snapshot("left", "known")
    folder = _in_pool(small, "left", "mautic-ops-past")
    source = folder.parent.parent / "containers" / folder.name
    command = ["btrfs", "subvolume", "snapshot", "-r", source, folder / "orphan"]
    subprocess.run(command, check=True, capture_output=True)
    small.remove_project()
    with pytest.raises(NotFound):
        small.instance("left")
