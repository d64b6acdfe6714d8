"""What the simulation offers beyond the contract: faults, counts, delays, a clock, and state over restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bot.lxd.protocol import (
    AlreadyExists,
    ExecResult,
    LxdError,
    LxdUnavailable,
    NotFound,
    PoolFull,
    edge_address,
    size_bytes,
)
from bot.lxd.simulated.lxd import CLONE_BYTES
from bot.lxd.simulated.world import MIB
from bot.lxd.wire import given
from tests.support.simulated_lxd import SimulatedLxd


def _with_blueprint(lxd: SimulatedLxd, tmp_path: Path) -> SimulatedLxd:
    (tmp_path / "image").write_bytes(b"image")
    lxd.import_image(str(tmp_path / "image"), "base", {})
    lxd.create("blueprint", "base", config={}, devices={})
    lxd.snapshot("blueprint", "golden")
    return lxd


@pytest.fixture
def lxd(tmp_path: Path) -> SimulatedLxd:
    """A server with a blueprint."""
    return _with_blueprint(SimulatedLxd(clock=lambda: 1000.0), tmp_path)


def test_the_server_says_that_it_is_simulated(lxd: SimulatedLxd) -> None:
    assert lxd.server().simulated


def test_the_server_uses_the_given_clock(lxd: SimulatedLxd) -> None:
    assert lxd.instance("blueprint").created == 1000
    assert lxd.snapshots("blueprint")[0].created == 1000


class TestFaults:
    def test_a_call_fails_as_often_as_requested_and_then_works(self, lxd: SimulatedLxd) -> None:
        lxd.fail_next("start", LxdUnavailable("gone"), times=2)
        for _ in range(2):
            with pytest.raises(LxdUnavailable, match="gone"):
                lxd.start("blueprint")
        assert not lxd.instance("blueprint").running
        lxd.start("blueprint")
        assert lxd.instance("blueprint").running

    def test_an_answer_can_be_lost_after_the_change(self, lxd: SimulatedLxd) -> None:
        lxd.fail_next("start", LxdUnavailable("no answer"), after=True)
        with pytest.raises(LxdUnavailable):
            lxd.start("blueprint")
        assert lxd.instance("blueprint").running

    def test_other_methods_are_not_affected(self, lxd: SimulatedLxd) -> None:
        lxd.fail_next("copy", PoolFull("full"))
        lxd.start("blueprint")
        with pytest.raises(PoolFull):
            lxd.copy("blueprint", "clone", config={}, devices={})

    def test_a_hook_sees_every_call_and_may_end_it(self, lxd: SimulatedLxd) -> None:
        seen: list[tuple[str, tuple[Any, ...]]] = []

        def hook(method: str, arguments: tuple[Any, ...]) -> None:
            seen.append((method, arguments))
            if method == "delete":
                raise KeyboardInterrupt

        lxd.on_call = hook
        lxd.start("blueprint")
        with pytest.raises(KeyboardInterrupt):
            lxd.delete("blueprint")
        assert seen == [("start", ("blueprint",)), ("delete", ("blueprint",))]

    def test_a_command_slower_than_its_deadline_fails(self, lxd: SimulatedLxd) -> None:
        lxd.start("blueprint")
        lxd.latency = {"execute": 30.0}
        with pytest.raises(LxdUnavailable, match="within 1 seconds"):
            lxd.execute("blueprint", ["true"], timeout=1)


def test_calls_are_counted_by_method(lxd: SimulatedLxd) -> None:
    lxd.calls.clear()
    for _ in range(3):
        lxd.instances()
    lxd.pool()
    assert lxd.calls == {"instances": 3, "pool": 1}


class TestRoom:
    def test_clones_fill_the_pool_and_deleting_frees_space(self, tmp_path: Path) -> None:
        lxd = _with_blueprint(SimulatedLxd(pool_bytes=2 * MIB + 2 * CLONE_BYTES), tmp_path)
        for name in ("one", "two"):
            lxd.copy("blueprint/golden", name, config={}, devices={})
        with pytest.raises(PoolFull):
            lxd.copy("blueprint/golden", "three", config={}, devices={})
        lxd.delete("one")
        lxd.copy("blueprint/golden", "three", config={}, devices={})

    @pytest.mark.parametrize(
        ("text", "expected"), [("30GiB", 30 * 1024**3), ("512MB", 512_000_000), ("7", 7), ("4kB", 4000)]
    )
    def test_sizes_are_read_as_lxd_reads_them(self, text: str, expected: int) -> None:
        assert size_bytes(text) == expected

    def test_text_that_is_no_size_is_refused(self) -> None:
        with pytest.raises(LxdError, match="30GiB"):
            size_bytes("much")


class TestAddresses:
    def test_every_instance_gets_an_address_of_its_own_and_keeps_it(self, lxd: SimulatedLxd) -> None:
        lxd.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet="10.9.0.1/24")
        for number in range(5):
            lxd.copy("blueprint/golden", f"t{number}", config={}, devices={})
            lxd.start(f"t{number}")
        addresses = [lxd.state(f"t{number}").address for number in range(5)]
        assert len(set(addresses)) == 5
        assert addresses == [given(lxd.instance(f"t{number}")) for number in range(5)]
        lxd.stop("t0")
        lxd.start("t0")
        assert lxd.state("t0").address == addresses[0]

    def test_no_address_is_given_beyond_the_subnet(self, lxd: SimulatedLxd) -> None:
        """A real server refuses the copy as well, and creates nothing."""
        lxd.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet="10.9.0.1/27")
        for number in range(15):
            lxd.copy("blueprint/golden", f"t{number}", config={}, devices={})
        with pytest.raises(LxdError, match=r"^All 15 addresses of the bridge are given: purge"):
            lxd.copy("blueprint/golden", "t15", config={}, devices={})
        assert "t15" not in [one.name for one in lxd.instances()]
        lxd.delete("t7")
        lxd.copy("blueprint/golden", "t15", config={}, devices={})
        assert given(lxd.instance("t15")).startswith("10.9.0.")

    def test_the_edge_gets_the_address_that_is_reserved_for_it(self, lxd: SimulatedLxd) -> None:
        port = {"type": "nic", "ipv4.address": edge_address("10.9.0.1/24")}
        lxd.copy("blueprint", "edge", config={}, devices={"eth0": port})
        lxd.start("edge")
        assert lxd.state("edge").address == "10.9.0.2"

    @pytest.mark.parametrize("subnet", ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.0/24", "10.0.0.77/24", "fe80::1/64"])
    def test_a_subnet_that_is_no_address_of_a_bridge_is_refused(self, lxd: SimulatedLxd, subnet: str) -> None:
        with pytest.raises(LxdError, match=r"10\.70\.0\.1/24"):
            lxd.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet=subnet)


def _ask(lxd: SimulatedLxd, verb: str, request: dict[str, str]) -> dict[str, object]:
    with lxd.talk("blueprint", ["/usr/bin/python3", "-c", "start", verb], limit=10_000) as talk:
        talk.send(json.dumps(request).encode() + b"\n0\n")
        found: dict[str, object] = json.loads(talk.line())
    return found


class TestCommandsInside:
    def test_mautic_ctl_is_simulated(self, lxd: SimulatedLxd) -> None:
        lxd.start("blueprint")
        answer = _ask(lxd, "identity", {"domain": "x.example", "password": "hidden"})
        assert answer["ok"] is True
        asked = lxd.pull("blueprint", "/var/lib/mautic-ops/identity.json")
        assert json.loads(asked) == {"domain": "x.example"}

    def test_an_unknown_verb_fails_as_the_tool_does(self, lxd: SimulatedLxd) -> None:
        lxd.start("blueprint")
        assert _ask(lxd, "dance", {}) == {"ok": False, "error": "there is no verb dance"}

    def test_a_test_may_answer_commands_itself(self, lxd: SimulatedLxd) -> None:
        def answer(_: SimulatedLxd, name: str, command: list[str], __: Mapping[str, str]) -> ExecResult:
            return ExecResult(7, f"{name}: {' '.join(command)}", "")

        lxd.run = answer
        lxd.start("blueprint")
        assert lxd.execute("blueprint", ["say", "hello"]) == ExecResult(7, "blueprint: say hello", "")


class TestMemory:
    def test_everything_survives_a_restart(self, tmp_path: Path) -> None:
        state = tmp_path / "lxd.json"
        before = _with_blueprint(SimulatedLxd(state=state), tmp_path)
        before.copy("blueprint/golden", "tenant", config={"user.a": "1"}, devices={})
        before.start("tenant")
        before.push("tenant", "/root/file", b"\x00\xff")
        after = SimulatedLxd(state=state)
        assert after.instances() == before.instances()
        assert after.state("tenant") == before.state("tenant")
        assert after.pull("tenant", "/root/file") == b"\x00\xff"
        assert after.image("base") == before.image("base")
        with pytest.raises(AlreadyExists):
            after.copy("blueprint/golden", "tenant", config={}, devices={})

    def test_a_call_that_failed_leaves_nothing_in_the_saved_state(self, tmp_path: Path) -> None:
        state = tmp_path / "lxd.json"
        before = _with_blueprint(SimulatedLxd(state=state), tmp_path)
        before.fail_next("copy", LxdError("no"))
        with pytest.raises(LxdError):
            before.copy("blueprint", "tenant", config={}, devices={})
        with pytest.raises(NotFound):
            SimulatedLxd(state=state).instance("tenant")


class TestCluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> SimulatedLxd:
        return _with_blueprint(SimulatedLxd(members=("node2", "node1")), tmp_path)

    def test_a_new_instance_is_on_the_requested_member(self, cluster: SimulatedLxd) -> None:
        cluster.at("node2").create("there", "base", config={}, devices={})
        cluster.at("node1").copy("there", "here", config={}, devices={})
        cluster.copy("there", "beside", config={}, devices={})
        found = {instance.name: instance.location for instance in cluster.at("node1").instances()}
        assert found == {"blueprint": "node1", "there": "node2", "here": "node1", "beside": "node2"}
        assert cluster.server().clustered

    def test_each_member_has_a_pool_of_its_own(self, cluster: SimulatedLxd) -> None:
        assert cluster.at("node1").pool().used > 0
        assert cluster.at("node2").pool().used == 0

    def test_faults_and_delays_apply_to_every_member(self, cluster: SimulatedLxd) -> None:
        member = cluster.at("node2")
        cluster.latency = {"server": 0.0}
        cluster.fail_next("start", LxdUnavailable("gone"))
        with pytest.raises(LxdUnavailable):
            member.start("blueprint")
        assert member.latency == {"server": 0.0}

    def test_a_silent_member_is_reported_and_its_instances_do_not_answer(self, cluster: SimulatedLxd) -> None:
        cluster.start("blueprint")
        cluster.instances()
        cluster.set_online("node1", False)
        assert [(member.name, member.online) for member in cluster.members()] == [("node1", False), ("node2", True)]
        assert cluster.instances()[0].status == "Error"
        with pytest.raises(LxdUnavailable, match="node1 is offline"):
            cluster.stop("blueprint")
        cluster.set_online("node1", True)
        assert cluster.instance("blueprint").running

    @pytest.mark.parametrize("asked", ["instances", "full_instances", "states"])
    def test_a_cluster_reports_only_the_names_of_a_silent_members_instances(
        self, cluster: SimulatedLxd, tmp_path: Path, asked: str
    ) -> None:
        """Instances that were not seen before are unknown; `tests/lab/test_members.py` shows it for a real cluster."""
        cluster.set_online("node1", False)
        refused = r"^LXD could not list the instances now: node1 does not answer\.$"
        with pytest.raises(LxdUnavailable, match=refused):
            getattr(cluster, asked)()
        cluster.set_online("node1", True)
        cluster.update("blueprint", {"user.seen": "yes"})
        getattr(cluster, asked)()
        cluster.set_online("node1", False)
        # The bot cannot see this change.
        cluster.world.machines["blueprint"].config["user.seen"] = "no"
        (found,) = cluster.instances()
        assert (found.status, found.config["user.seen"], found.location) == ("Error", "yes", "node1")
        (whole,) = cluster.full_instances()
        assert (whole.instance, whole.snapshots) == (found, ())
        assert (whole.state.status, whole.state.address, whole.state.disk) == ("Error", "", 0)
        assert cluster.states() == {"blueprint": whole.state}
        assert cluster.at("node2").instances() == [found], "the members are one server"

    def test_a_start_of_the_bot_forgets_the_instances_seen_before(self, tmp_path: Path) -> None:
        state = tmp_path / "lxd.json"
        before = _with_blueprint(SimulatedLxd(members=("node1",), state=state), tmp_path)
        before.instances()
        before.set_online("node1", False)
        assert [one.name for one in before.instances()] == ["blueprint"]
        before.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet="10.9.0.1/24")
        with pytest.raises(LxdUnavailable, match="node1 does not answer"):
            SimulatedLxd(state=state).instances()

    def test_a_single_server_has_no_members(self) -> None:
        assert SimulatedLxd().members() == []
