"""Which host a name means: a server of its own, or a member of a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bot.fleet import Fleet
from bot.plan import Refused
from bot.simulated_lxd import SimulatedLxd
from tests.support.bot import OPERATOR, add_blueprint, make_bench


def test_a_member_that_is_called_like_its_server_is_that_member(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, members=("local", "node2", "node3"))
    assert bench.done("new client-x --host node2").state == "succeeded"
    moved = bench.done("migrate client-x local", OPERATOR)
    assert bench.lxd.instance(f"client-x--{moved.id}").location == "local"


def test_where_a_tenant_stands_is_known_before_the_members_are() -> None:
    lxd = SimulatedLxd(members=("local", "node2"))
    add_blueprint(lxd)
    fleet = Fleet({"local": lxd})
    place = fleet.of(fleet.blueprint()).lxd
    assert isinstance(place, SimulatedLxd)
    assert place.member == "local"


def test_a_name_that_two_servers_have_is_refused_and_the_doctor_says_so(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, members=("node1", "node2"), others={"node2": SimulatedLxd()})
    told = "Both `local` and `node2` have a host `node2`; give the server that is called so another name"
    with pytest.raises(Refused, match=told):
        bench.answer("new client-x --host node1")
    assert told in json.dumps(bench.answer("doctor").blocks)
