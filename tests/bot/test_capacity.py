"""How many tenants fit on a host, for any host and any tenants, and what a refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.fleet.capacity import (
    Demand,
    FreeSpace,
    Occupant,
    PlanMeasurements,
    expected,
    free_space,
    reserved,
    seen_by_hosts,
    strain,
)
from bot.lxd.protocol import Resources
from bot.settings import CapacitySettings, load

MIB, GIB = 1 << 20, 1 << 30
SETTINGS = load(environment={}).capacity
NEW = Demand("local", "client-x", memory=GIB // 2, plan=3 * GIB, tenants=1)

sizes = st.integers(0, 64 * GIB)
hosts = st.builds(
    lambda total, share, cores: Resources(total, total * share // 100, cores),
    st.integers(GIB, 256 * GIB),
    st.integers(0, 100),
    st.integers(1, 64),
)
policies = st.builds(
    lambda reserve, overcommit, tenants: replace(SETTINGS, reserve=reserve, overcommit=overcommit, tenants=tenants),
    st.one_of(st.integers(0, 99).map("{}%".format), st.integers(0, 8).map("{}GiB".format)),
    st.floats(0, 10),
    st.integers(0, 100),
)
occupants = st.lists(st.builds(Occupant, st.text(max_size=3), st.booleans(), sizes, sizes, st.booleans()), max_size=20)
demands = st.builds(
    Demand, st.just("local"), st.text(max_size=3), st.integers(1, 8 * GIB), st.integers(0, 32 * GIB), st.integers(0, 1)
)


def on(policy: CapacitySettings, host: Resources, there: list[Occupant], coming: list[Demand]) -> FreeSpace:
    return free_space("local", host, policy, there, coming)


@given(policies, hosts, occupants, st.lists(demands, max_size=10), demands)
def test_as_many_fit_as_are_admitted_one_by_one(
    policy: CapacitySettings, host: Resources, there: list[Occupant], coming: list[Demand], demand: Demand
) -> None:
    fits = on(policy, host, there, coming).fits(demand)
    if fits > 200:
        return
    for count in range(fits):
        assert not on(policy, host, there, [*coming, *[demand] * count]).lacks(demand)
    assert on(policy, host, there, [*coming, *[demand] * fits]).lacks(demand)


@given(policies, hosts, occupants, st.lists(demands, max_size=30))
def test_admitted_demands_never_exceed_the_reserve_or_a_limit(
    policy: CapacitySettings, host: Resources, there: list[Occupant], asked: list[Demand]
) -> None:
    let_in: list[Demand] = []
    for demand in asked:
        if not on(policy, host, there, let_in).lacks(demand):
            let_in.append(demand)
    after = on(policy, host, there, let_in)
    if let_in:
        grown = sum(one.growth for one in there if one.runs) + sum(one.memory for one in let_in)
        assert host.available - grown >= reserved(policy, host.total)
    if policy.tenants and any(one.tenants for one in let_in):
        assert after.tenants <= policy.tenants
    if policy.overcommit and any(one.plan for one in let_in) and after.most_plans:
        assert after.plans <= policy.overcommit * host.total


@given(policies, hosts, occupants, st.lists(demands, max_size=10), demands, demands)
def test_more_demand_never_makes_more_fit(
    policy: CapacitySettings,
    host: Resources,
    there: list[Occupant],
    coming: list[Demand],
    demand: Demand,
    more: Demand,
) -> None:
    before = on(policy, host, there, coming).fits(demand)
    assert on(policy, host, there, [*coming, more]).fits(demand) <= before
    assert on(policy, replace(host, used=host.total), there, coming).fits(demand) == 0


def test_a_refusal_says_what_is_free_and_what_is_needed() -> None:
    host = Resources(total=8 * GIB, used=6 * GIB, cores=2)
    full = on(SETTINGS, host, [Occupant("client-y", True, growth=GIB)], [])
    said = full.lacks(NEW)
    assert "of memory needed" in said
    assert "free, of which" in said
    assert "promised to approved or just started tenants" in said
    assert "819 MiB reserved" in said
    roomy = on(SETTINGS, replace(host, used=GIB), [], [])
    assert not roomy.lacks(NEW)
    assert "left on local" in roomy.after(NEW)


def test_a_refusal_names_the_limit_of_the_policy() -> None:
    host = Resources(total=64 * GIB, used=GIB, cores=2)
    there = [Occupant("client-y", True, plan=3 * GIB)]
    assert "`capacity.tenants` allows 1" in on(replace(SETTINGS, tenants=1), host, there, []).lacks(NEW)
    tight = replace(SETTINGS, overcommit=0.09)
    assert "`capacity.overcommit` allows" in on(tight, host, there, []).lacks(NEW)
    # A stopped tenant counts as a tenant, but takes no memory.
    resting = [replace(there[0], runs=False)]
    assert not on(tight, host, resting, []).lacks(NEW)
    assert "`capacity.tenants`" in on(replace(SETTINGS, tenants=1), host, resting, []).lacks(NEW)


SHARE = 3 * GIB * 6 // 100
SMALL = load(environment={}).plans["small"]


def test_a_tenant_is_expected_to_use_what_others_of_its_plan_use() -> None:
    assert expected(SETTINGS, SMALL) == SHARE
    # One idle tenant says little about the next, sixty say nearly everything, by what their hosts count for them.
    idle = 75 * MIB
    few, many = (expected(SETTINGS, SMALL, PlanMeasurements((idle,) * count, 1.8)) for count in (1, 60))
    assert 170 * MIB < few < SHARE
    assert 1.8 * idle < many < 1.1 * 1.8 * idle
    # What busy tenants report counts in full from the first one on.
    assert expected(SETTINGS, SMALL, PlanMeasurements((GIB, 2 * GIB), 1.2)) == 3 * GIB // 2
    # Whatever else uses memory on the hosts, a tenant counts at most twice what it reports.
    worst = expected(SETTINGS, SMALL, PlanMeasurements((idle,) * 60, 2.0))
    assert many < worst < SHARE
    assert {expected(SETTINGS, SMALL, PlanMeasurements((idle,) * 60, seen)) for seen in (0.0, 2.5, 40.0)} == {worst}


@given(st.lists(st.integers(1, 4 * GIB), max_size=100), st.floats(1, 50))
def test_the_expected_memory_is_never_less_than_the_reported_average(most: list[int], seen: float) -> None:
    found = expected(SETTINGS, SMALL, PlanMeasurements(tuple(most), seen))
    told = sum(most) // len(most) if most else 0
    assert told <= found <= max(2 * told, SHARE)
    # A host with more memory in use never makes more fit.
    assert expected(SETTINGS, SMALL, PlanMeasurements(tuple(most), seen + 1)) >= found


def test_the_ratio_of_used_to_reported_memory_skips_unknown_values() -> None:
    assert seen_by_hosts([(6 * GIB, 3 * GIB), (2 * GIB, GIB)]) == 2.0
    assert seen_by_hosts([(6 * GIB, 3 * GIB), (0, GIB), (GIB, 0)]) == 2.0
    assert seen_by_hosts([]) == 0.0


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        (Resources(20 * GIB, 17 * GIB, 2), ""),
        # The reserve is 2 GiB, and tenants may grow into it.
        (Resources(20 * GIB, 18 * GIB + GIB // 2, 2), ""),
        (Resources(20 * GIB, 19 * GIB + 1, 2), "less than half of the reserve"),
        (Resources(20 * GIB, GIB, 2, load=16.0), ""),
        (Resources(20 * GIB, GIB, 2, load=16.5), "load 16, the limit for 2 cores is 16"),
        (Resources(20 * GIB, GIB, 2, load=None), ""),
        (Resources(20 * GIB, GIB, 2, seconds=7.0), "its server took 7 s to answer"),
    ],
)
def test_an_overloaded_host_says_why(resources: Resources, why: str) -> None:
    assert why in strain(resources, SETTINGS)
    assert bool(why) == bool(strain(resources, SETTINGS))
