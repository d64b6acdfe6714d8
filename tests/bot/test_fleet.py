"""What a name means: a host, which is a server or a member of a cluster, or a tenant."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest

from bot.fleet.inventory import Fleet
from bot.model.labels import as_labels
from bot.model.plan import Refused
from tests.support.bot import OPERATOR, Bench, add_blueprint, make_bench
from tests.support.simulated_lxd import SimulatedLxd


def test_a_name_of_both_a_server_and_its_member_means_the_member(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, members=("local", "node2", "node3"))
    assert bench.done("new client-x --host node2").state == "succeeded"
    moved = bench.done("migrate client-x local", OPERATOR)
    assert bench.lxd.instance(f"client-x--{moved.id}").location == "local"


def test_the_member_of_an_instance_is_known_before_the_members_are_listed() -> None:
    lxd = SimulatedLxd(members=("local", "node2"))
    add_blueprint(lxd)
    fleet = Fleet({"local": lxd})
    place = fleet.of(fleet.blueprint()).lxd
    assert isinstance(place, SimulatedLxd)
    assert place.member == "local"


def two_of_one_name(tmp_path: Path) -> Bench:
    """Put a tenant on a second host too, as after that host was restored from a backup."""
    solo = SimulatedLxd()
    add_blueprint(solo)
    bench = make_bench(tmp_path, others={"solo": solo})
    bench.done("new client-x --host local")
    solo.world.machines["client-x"] = deepcopy(bench.lxd.world.machines["client-x"])
    return bench


@pytest.mark.parametrize("text", ["status client-x", "delete client-x", "migrate client-x solo"])
def test_a_name_that_two_tenants_have_is_refused(tmp_path: Path, text: str) -> None:
    bench = two_of_one_name(tmp_path)
    with pytest.raises(Refused, match="more than once: `client-x` on local and `client-x` on solo"):
        bench.answer(text, OPERATOR)


@pytest.mark.parametrize(("moving", "chosen"), [("local", "solo"), ("solo", "local")])
def test_a_tenant_that_was_closed_for_a_move_is_no_second_tenant(tmp_path: Path, moving: str, chosen: str) -> None:
    bench = two_of_one_name(tmp_path)
    bench.context.fleet.servers[moving].update("client-x", as_labels(state="moving"))
    assert bench.context.fleet.tenant("client-x").server == chosen


def test_a_name_that_two_archived_tenants_have_is_refused(tmp_path: Path) -> None:
    bench = two_of_one_name(tmp_path)
    for lxd in bench.context.fleet.servers.values():
        lxd.update("client-x", as_labels(role="archived", archived=1))
    with pytest.raises(Refused, match="more than once: `client-x` on local and `client-x` on solo"):
        bench.answer("unarchive client-x", OPERATOR)


def test_a_host_name_that_two_servers_have_is_refused_and_doctor_says_so(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, members=("node1", "node2"), others={"node2": SimulatedLxd()})
    told = "Both `local` and `node2` have a host `node2`. Rename one of the servers"
    with pytest.raises(Refused, match=told):
        bench.answer("new client-x --host node1")
    assert told in json.dumps(bench.answer("doctor").blocks)
