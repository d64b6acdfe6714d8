"""What the bot relies on when an instance goes to another host, checked on the simulation and real servers alike."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.lxd.protocol import AlreadyExists, Instance, Lxd, LxdError, NotFound
from bot.lxd.wire import NIC, given
from tests.support.real_lxd import PLACES, TINY, listening
from tests.support.simulated_lxd import SimulatedLxd


@dataclass(frozen=True)
class Pair:
    """Two hosts: `target` receives instances from `source`."""

    source: Lxd
    target: Lxd
    names: list[str]

    def name(self) -> str:
        """Return a new name for an instance, which is deleted after the test."""
        self.names.append(f"t{secrets.token_hex(4)}")
        return self.names[-1]

    def receive(self, instance: str, *, config: dict[str, str] | None = None) -> str:
        """Copy an instance to the target under a new name, and return that."""
        name = self.name()
        self.target.receive(self.source, instance, name, config=config or {}, devices={})
        return name

    def remove(self) -> None:
        for lxd in (self.source, self.target):
            for name in self.names:
                with suppress(NotFound):
                    lxd.stop(name, force=True)
                    lxd.delete(name)


def _simulated(tmp_path: Path, *members: str) -> SimulatedLxd:
    lxd = SimulatedLxd(members=members)
    lxd.ensure_project(pool_driver="btrfs", pool_size="20GiB", subnet="10.71.0.1/24")
    (tmp_path / "tiny").write_bytes(b"tiny")
    lxd.import_image(str(tmp_path / "tiny"), TINY, {"os": "tiny"})
    return lxd


@pytest.fixture(params=["simulated servers", "simulated members", *(place.fixture for place in PLACES)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Two hosts with the tiny image."""
    match request.param:
        case "simulated servers":
            made = Pair(_simulated(tmp_path), _simulated(tmp_path), [])
        case "simulated members":
            cluster = _simulated(tmp_path, "node1", "node2")
            made = Pair(cluster.at("node1"), cluster.at("node2"), [])
        case _:
            real = request.getfixturevalue(request.param)
            made = Pair(real, real, [])
    yield made
    made.remove()


@pytest.fixture
def running(pair: Pair) -> str:
    """An instance that runs at the source."""
    name = pair.name()
    pair.source.create(name, TINY, config={"user.colour": "red"}, devices={"one": {"type": "none"}})
    pair.source.start(name)
    return name


def _mac(instance: Instance) -> str:
    return instance.config["volatile.eth0.hwaddr"]


def own(instance: Instance) -> dict[str, Mapping[str, str]]:
    """Return the devices of an instance, without the interface that every instance has."""
    return {key: device for key, device in instance.devices.items() if key != NIC}


def test_a_running_instance_is_copied_with_its_snapshots_and_keeps_running(pair: Pair, running: str) -> None:
    pair.source.push(running, "/root/kept", b"before")
    pair.source.snapshot(running, "one", config={"user.why": "asked"})
    pair.source.push(running, "/root/kept", b"now")
    before = pair.source.instance(running)
    copied = pair.receive(running, config={"user.shape": "round"})
    assert pair.source.instance(running) == before
    received = pair.target.instance(copied)
    assert received.status == "Stopped"
    assert received.profiles == before.profiles
    assert (received.config["user.colour"], received.config["user.shape"]) == ("red", "round")
    assert own(received) == {"one": {"type": "none"}}
    assert pair.target.pull(copied, "/root/kept") == b"now"
    [snapshot] = pair.target.snapshots(copied)
    assert (snapshot.name, snapshot.config["user.why"]) == ("one", "asked")
    assert snapshot.created == pair.source.snapshots(running)[0].created


def test_the_copy_has_a_mac_of_its_own(pair: Pair, running: str) -> None:
    copied = pair.receive(running)
    pair.target.start(copied)
    assert _mac(pair.target.instance(copied)) != _mac(pair.source.instance(running))


def test_the_copy_has_an_address_of_its_own_and_keeps_it_in_a_refresh(pair: Pair, running: str) -> None:
    copied = pair.receive(running)
    before, theirs = (given(one) for one in (pair.target.instance(copied), pair.source.instance(running)))
    assert "" not in (before, theirs)
    if running in [one.name for one in pair.target.instances()]:
        # Separate servers may assign the same address.
        assert before != theirs
    pair.source.snapshot(running, "again")
    pair.target.receive(pair.source, running, copied, config={}, devices={}, refresh=True)
    assert given(pair.target.instance(copied)) == before


def test_config_and_devices_override_those_of_the_source(pair: Pair, running: str) -> None:
    name = pair.name()
    other = {"type": "none"}
    pair.target.receive(pair.source, running, name, config={"user.colour": "blue"}, devices={"two": other})
    received = pair.target.instance(name)
    assert received.config["user.colour"] == "blue"
    assert own(received) == {"one": other, "two": other}


def test_a_refresh_transfers_what_changed(pair: Pair, running: str) -> None:
    pair.source.push(running, "/root/gone", b"gone")
    pair.source.snapshot(running, "one")
    pair.source.snapshot(running, "two")
    copied = pair.receive(running)
    pair.source.push(running, "/root/kept", b"now")
    pair.source.remove(running, "/root/gone")
    pair.source.delete_snapshot(running, "one")
    pair.source.update(running, {"user.colour": "blue"})
    pair.source.snapshot(running, "three")
    pair.target.receive(
        pair.source, running, copied, config={"user.shape": "round"}, devices={"two": {"type": "none"}}, refresh=True
    )
    assert [snapshot.name for snapshot in pair.target.snapshots(copied)] == ["two", "three"]
    assert pair.target.pull(copied, "/root/kept") == b"now"
    with pytest.raises(NotFound):
        pair.target.pull(copied, "/root/gone")
    received = pair.target.instance(copied)
    assert (received.config["user.colour"], received.config["user.shape"]) == ("red", "round")
    assert own(received).keys() == {"one", "two"}
    assert received.status == "Stopped"


def test_a_refresh_of_a_missing_instance_creates_none(pair: Pair, running: str) -> None:
    name = pair.name()
    with pytest.raises(NotFound):
        pair.target.receive(pair.source, running, name, config={}, devices={}, refresh=True)
    assert name not in [instance.name for instance in pair.target.instances()]


def test_a_refresh_of_a_running_instance_is_refused(pair: Pair, running: str) -> None:
    copied = pair.receive(running)
    pair.target.start(copied)
    with pytest.raises(LxdError, match="running"):
        pair.target.receive(pair.source, running, copied, config={}, devices={}, refresh=True)
    assert pair.target.instance(copied).running


def test_a_taken_name_is_refused(pair: Pair, running: str) -> None:
    copied = pair.receive(running)
    with pytest.raises(AlreadyExists):
        pair.target.receive(pair.source, running, copied, config={}, devices={})


def test_an_unknown_source_is_not_found(pair: Pair) -> None:
    name = pair.name()
    with pytest.raises(NotFound, match="t-none"):
        pair.target.receive(pair.source, "t-none", name, config={}, devices={})


def test_a_full_reading_agrees_with_the_single_requests(pair: Pair, running: str) -> None:
    pair.source.snapshot(running, "one")
    pair.source.snapshot(running, "two")
    found = {whole.instance.name: whole for whole in pair.source.full_instances()}
    assert list(found) == sorted(found)
    assert found[running].instance == pair.source.instance(running)
    assert [snapshot.name for snapshot in found[running].snapshots] == ["one", "two"]
    assert found[running].state.status == "Running"


@pytest.fixture(params=["simulated", "real"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """LXD as the source, Incus as the target."""
    with ExitStack() as stack:
        if request.param == "simulated":
            incus = _simulated(tmp_path)
            incus.product = "Incus"
            made = Pair(_simulated(tmp_path), incus, [])
        else:
            servers = [request.getfixturevalue(place.fixture) for place in PLACES]
            for server, place in zip(servers, PLACES, strict=True):
                stack.enter_context(listening(server, place))
            made = Pair(*servers, [])
        yield made
        made.remove()


def test_incus_receives_from_lxd_and_lxd_refuses_to_receive_from_incus(both: Pair) -> None:
    name = both.name()
    both.source.create(name, TINY, config={"user.colour": "red"}, devices={})
    both.source.start(name)
    both.source.snapshot(name, "one")
    copied = both.receive(name)
    both.source.push(name, "/root/kept", b"later")
    both.source.stop(name, force=True)
    both.source.snapshot(name, "two")
    both.target.receive(both.source, name, copied, config={}, devices={}, refresh=True)
    assert [snapshot.name for snapshot in both.target.snapshots(copied)] == ["one", "two"]
    both.target.start(copied)
    assert both.target.pull(copied, "/root/kept") == b"later"
    back = both.name()
    with pytest.raises(
        LxdError, match=f"^LXD could not copy `{copied}` to `{back}`: it takes no containers from Incus"
    ):
        both.source.receive(both.target, copied, back, config={}, devices={})
    assert back not in [instance.name for instance in both.source.instances()]
