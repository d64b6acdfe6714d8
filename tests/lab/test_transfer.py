"""Transfers of instances between the lab's hosts: how much is sent, and what holds when something breaks."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from bot.engine.steps import patiently
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import LxdError, LxdUnavailable, NotFound, PoolFull
from tests.lab.conftest import eventually
from tests.support.lab import Lab
from tests.support.real_lxd import TINY

MB = 1_000_000
WAYS = [("solo1", "solo2"), ("node2", "node3")]


class Way:
    """A running instance on one host, and the host that it is transferred to."""

    def __init__(self, lab: Lab, source: str, target: str) -> None:
        self.lab = lab
        self.source, self.target = lab.host(source), lab.host(target)
        self.node = lab.nodes[target]
        self.name = f"{source}-tenant"
        self.copy, self.again = f"{self.name}--1", f"{self.name}--2"

    def receive(self, *, refresh: bool = False, name: str = "") -> int:
        """Transfer the instance, and return the bytes that went through the target's cable meanwhile."""
        before = self.node.received()
        self.target.receive(self.source, self.name, name or self.copy, config={}, devices={}, refresh=refresh)
        return self.node.received() - before

    def broken(self, breaking: Callable[[], None], *, refresh: bool = False) -> None:
        """Transfer the instance, break something in the middle, and check that LxdUnavailable is raised."""
        before = self.node.received()
        with ThreadPoolExecutor(1) as thread, self.node.slow(megabits=80):
            coming = thread.submit(self.receive, refresh=refresh)
            eventually(self.node.received, lambda now: now > before + 5 * MB)
            assert not coming.done()
            breaking()
            with pytest.raises(LxdUnavailable):
                coming.result()


@pytest.fixture(params=WAYS, ids=" to ".join)
def way(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Way]:
    """A running instance with 300 MB on its source host."""
    made = Way(lab, *request.param)
    made.source.create(made.name, TINY, config={}, devices={})
    made.source.start(made.name)
    write(made.source, made.name, 300)
    yield made
    for lxd, name in ((made.source, made.name), (made.target, made.copy), (made.target, made.again)):
        with suppress(NotFound):
            lxd.stop(name, force=True)
            lxd.delete(name)


def write(lxd: LxdGateway, name: str, megabytes: int) -> None:
    """Write a file of incompressible bytes into an instance, with its checksum beside it."""
    data = f"data-{megabytes}"
    script = f"cd /root; dd if=/dev/urandom of={data} bs=1M count={megabytes} && md5sum {data} >{data}.md5 && sync"
    assert lxd.execute(name, ["sh", "-c", script]).code == 0


def is_intact(lxd: LxdGateway, name: str, megabytes: int) -> bool:
    """Start an instance, and return whether its file has the bytes that were written."""
    lxd.start(name)
    return lxd.execute(name, ["sh", "-c", f"cd /root; md5sum -c data-{megabytes}.md5"], timeout=120).code == 0


def test_a_copy_of_the_running_instance_leaves_little_for_the_last_refresh(way: Way) -> None:
    way.source.snapshot(way.name, "s-1")
    assert way.receive() > 300 * MB
    write(way.source, way.name, 20)
    way.source.snapshot(way.name, "s-2")
    assert 20 * MB < way.receive(refresh=True) < 30 * MB
    way.source.execute(way.name, ["sh", "-c", "echo last > /root/last"])
    way.source.stop(way.name)
    way.source.snapshot(way.name, "s-3")
    assert way.receive(refresh=True) < 2 * MB
    way.target.start(way.copy)
    assert way.target.pull(way.copy, "/root/last") == b"last\n"
    assert [snapshot.name for snapshot in way.target.snapshots(way.copy)] == ["s-1", "s-2", "s-3"]


def test_a_slow_copy_is_not_given_up_while_bytes_move(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    still = 10
    monkeypatch.setattr("bot.lxd.transfer.STILL", still)
    way.source.snapshot(way.name, "s-1")
    began = time.monotonic()
    with way.node.slow(megabits=120):
        way.receive()
    assert time.monotonic() - began > 1.5 * still
    assert is_intact(way.target, way.copy, 300)


class TestBrokenCopy:
    def test_a_cut_cable_is_reported_and_the_next_try_works(self, way: Way) -> None:
        way.source.snapshot(way.name, "s-1")
        try:
            way.broken(way.node.cut)
            # The tenant can be stopped and started while the cable is still cut.
            way.source.stop(way.name)
            way.source.start(way.name)
        finally:
            way.node.restore()
        # A cluster does not know at once which instances a returned member has.
        patiently(lambda: way.receive(name=way.again))

    def test_a_killed_server_is_reported_and_the_next_try_works(self, way: Way) -> None:
        way.source.snapshot(way.name, "s-1")
        try:
            way.broken(way.node.kill)
            way.source.stop(way.name)
            way.source.start(way.name)
        finally:
            way.node.start()
        # LXD keeps a partial copy that it cannot delete: the next copy needs another name, and a person has to help.
        with pytest.raises(LxdError, match="remove its empty folder"):
            patiently(lambda: way.target.delete(way.copy))
        way.receive(name=way.again)
        way.node.stored(way.copy).rmdir()
        way.target.delete(way.copy)


class TestBrokenRefresh:
    @pytest.fixture(autouse=True)
    def copied(self, way: Way) -> None:
        """Copy the instance, write 200 MB more into it, and stop it for the last refresh."""
        way.source.snapshot(way.name, "s-1")
        way.receive()
        write(way.source, way.name, 200)
        way.source.stop(way.name)
        way.source.snapshot(way.name, "s-2")

    # Within a cluster LXD 5.0.2 continues an interrupted refresh unseen, and may corrupt the copy: there only a new
    # copy under another name is safe, as in a migration that starts again.
    @pytest.mark.parametrize("way", [("solo1", "solo2")], ids=" to ".join, indirect=True)
    def test_a_cut_cable_is_reported_and_source_and_copy_stay_usable(self, way: Way) -> None:
        try:
            way.broken(way.node.cut, refresh=True)
            way.source.start(way.name)
        finally:
            way.node.restore()
        way.receive(refresh=True)
        assert is_intact(way.target, way.copy, 200)

    def test_a_killed_server_is_reported_and_source_and_copy_stay_usable(self, way: Way) -> None:
        try:
            way.broken(way.node.kill, refresh=True)
            way.source.start(way.name)
        finally:
            way.node.start()
        # For a moment, a member that was just restarted is not accepted as a target.
        patiently(lambda: way.receive(refresh=True))
        assert is_intact(way.target, way.copy, 200)


@pytest.mark.parametrize("whole", [True, False], ids=["the instance", "the snapshot"])
def test_a_deletion_waits_until_lxd_has_finished_sending(lab: Lab, whole: bool) -> None:
    lxd, node = lab.host("solo1"), lab.nodes["solo1"]
    lxd.create("sent", TINY, config={}, devices={})
    try:
        lxd.snapshot("sent", "s-1")
        with ThreadPoolExecutor(1) as thread, node.sending("sent", "s-1"):
            deleting = thread.submit(lxd.delete, "sent") if whole else thread.submit(lxd.delete_snapshot, "sent", "s-1")
            with pytest.raises(TimeoutError):
                deleting.result(timeout=1)
        deleting.result()
        if not whole:
            assert lxd.snapshots("sent") == []
    finally:
        with suppress(NotFound):
            lxd.delete("sent")


class TestWhoListens:
    """A server that does not listen on the network connects to the other one; if neither listens, an error says so."""

    @pytest.fixture
    def deaf(self, lab: Lab) -> Iterator[Callable[[str], LxdGateway]]:
        """Makes a standalone server listen on its socket only, and returns a gateway to it."""
        nodes = []

        def make(name: str) -> LxdGateway:
            nodes.append(lab.nodes[name])
            nodes[-1].listen(False)
            return LxdGateway(nodes[-1].socket)

        yield make
        for node in nodes:
            node.listen(True)

    @pytest.mark.parametrize("sender", ["solo1", "solo2"])
    def test_one_listening_server_is_enough(self, lab: Lab, deaf: Callable[[str], LxdGateway], sender: str) -> None:
        source = deaf("solo1") if sender == "solo1" else lab.host("solo1")
        target = deaf("solo2") if sender == "solo2" else lab.host("solo2")
        source.create("listened", TINY, config={}, devices={})
        try:
            source.snapshot("listened", "s-1")
            target.receive(source, "listened", "heard", config={}, devices={})
            source.push("listened", "/root/more", b"more")
            source.snapshot("listened", "s-2")
            target.receive(source, "listened", "heard", config={}, devices={}, refresh=True)
            assert target.pull("heard", "/root/more") == b"more"
            target.delete("heard")
        finally:
            source.delete("listened")

    def test_a_transfer_between_servers_that_do_not_listen_is_refused(self, deaf: Callable[[str], LxdGateway]) -> None:
        source, target = deaf("solo1"), deaf("solo2")
        source.create("listened", TINY, config={}, devices={})
        try:
            with pytest.raises(LxdError, match=r"set `core.https_address` on one\.$"):
                target.receive(source, "listened", "heard", config={}, devices={})
        finally:
            source.delete("listened")


def test_a_copy_that_does_not_fit_raises_pool_full_and_leaves_nothing(way: Way) -> None:
    way.target.create("filler", TINY, config={}, devices={})
    try:
        with (way.node.stored("filler") / "rootfs" / "fill").open("wb") as file, suppress(OSError):
            for part in range(way.target.pool().total // (100 * MB)):
                os.posix_fallocate(file.fileno(), part * 100 * MB, 100 * MB)
        with pytest.raises(PoolFull):
            way.receive()
        assert way.copy not in [instance.name for instance in way.target.instances()]
        assert way.source.instance(way.name).running
    finally:
        way.target.delete("filler")
