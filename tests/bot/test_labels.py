"""Every label is listed with the modules that write it, and at most one container of a tenant serves."""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schedules
from bot.engine.scheduler import discover
from bot.lxd.protocol import Instance
from bot.model.labels import (
    KEY,
    LABELS,
    Role,
    Seen,
    State,
    as_labels,
    has_replaced,
    holder,
    is_open,
    label_of,
    moment_of,
    number_of,
    replaced,
    replacing,
    right,
    role_of,
    seen,
    serving,
    state_of,
)
from tests.bot.test_durability import Death, Killed, World
from tests.support.bot import CASES, OPERATOR, Bench, make_bench

ROOT = Path(__file__).parents[2]
CONTAINERS = st.builds(
    Seen,
    st.text("ab-12", min_size=1),
    st.one_of(st.none(), st.sampled_from(Role)),
    st.sampled_from(State),
    st.booleans(),
    st.integers(0, 4),
)


@given(st.lists(CONTAINERS, max_size=6, unique_by=lambda one: one.instance), st.randoms())
def test_at_most_one_container_serves_and_their_order_does_not_matter(its: list[Seen], random: Any) -> None:
    found = serving(its)
    shuffled = random.sample(its, len(its))
    assert serving(shuffled) == found
    if found is None:
        return
    assert found.running
    assert found.state == State.LIVE
    assert found.role in (Role.TENANT, Role.INCOMING)
    others = [one for one in its if one is not found]
    if found.role == Role.INCOMING:
        # A candidate serves only while the tenant's container is closed for it, so that no data written to it is lost.
        assert all(one.state == State.MOVING for one in others if one.role == Role.TENANT)
        assert not any(one.role == Role.ARCHIVED and one.state != State.MOVING for one in others)


@given(st.lists(CONTAINERS, max_size=6, unique_by=lambda one: one.instance))
def test_the_container_that_holds_a_domain_has_the_highest_right_to_it(its: list[Seen]) -> None:
    found, rights = holder(its), [right(one) for one in its if right(one) is not None]
    assert (found is None) == (not rights)
    if found:
        assert right(found) == max(rights)
        assert (serving(its) is found) == is_open(found)


@given(CONTAINERS, CONTAINERS)
def test_no_two_containers_have_replaced_each_other(one: Seen, other: Seen) -> None:
    assert not (has_replaced(one, other) and has_replaced(other, one))


def standing(bench: Bench) -> list[Seen]:
    return [
        seen(one.name, one.config, running=one.running)
        for one in bench.lxd.instances()
        if label_of(one.config, "tenant") == "client-x"
    ]


def cut_anywhere(tmp_path: Path, command: str, *, undone: bool) -> Iterator[tuple[str, Bench]]:
    """Yield each moment before a call of LXD at which the command was killed, and the bench as it was left.

    `undone`: the command is killed while it is rolled back.
    """
    world = World(tmp_path, command)
    for number in itertools.count():
        bench = world.begin()
        death = Death(number)
        bench.lxd.on_call = lambda method, _, death=death: death(method) and None  # type: ignore[misc]
        if undone:
            bench.lxd.on_call = None

            def fault(moment: str, bench: Bench = bench, death: Death = death) -> None:
                if moment.startswith("ran ") and moment == f"ran {len(world.operation.steps) - 2}":
                    bench.lxd.on_call = lambda method, _: death(method) and None
                    raise RuntimeError("It failed.")

            bench.runner.fault = fault
        try:
            bench.finish()
        except Killed as moment:
            bench.lxd.on_call = None
            yield str(moment), bench
        else:
            return
        finally:
            bench.context.database.close()


@pytest.mark.parametrize("undone", [False, True], ids=["on its way", "taken back"])
@pytest.mark.parametrize("command", sorted(set(CASES) - {"snapshot", "prune"}))
def test_after_a_crash_anywhere_at_most_one_container_serves(tmp_path: Path, command: str, undone: bool) -> None:
    for moment, bench in cut_anywhere(tmp_path, command, undone=undone):
        its = standing(bench)
        rights = [right(one) for one in its if right(one) is not None]
        best = [one for one in its if rights and right(one) == max(rights)]
        assert len(best) <= 1, (moment, its)
        found = serving(its)
        bench.context.edge.apply()
        assert bench.context.edge.probe("client-x.mautic.localhost").login == (found is not None), (moment, its)
        tenants = bench.context.fleet.inventory(Role.TENANT, Role.INCOMING, Role.RETIRED, Role.ARCHIVED).tenants
        known = serving([one for one in tenants if one.name == "client-x"])
        assert (known and known.instance) == (found and found.instance), (moment, its)


def test_an_unknown_role_or_state_counts_as_not_open() -> None:
    config = as_labels(role="tenant", state="hibernating")
    assert (role_of(config), state_of(config)) == (Role.TENANT, State.UNKNOWN)
    assert serving([seen("a", config, running=True)]) is None
    assert role_of(as_labels(role="clone")) is None
    assert state_of({}) == State.NONE


def test_an_unlisted_label_can_be_neither_written_nor_read() -> None:
    with pytest.raises(KeyError, match="colour"):
        as_labels(colour="blue")
    with pytest.raises(KeyError, match="colour"):
        label_of(Instance("a", "Running").config, "colour")


def test_label_keys_and_values_of_existing_tenants_are_unchanged() -> None:
    assert KEY == "user.mautic-ops."
    assert {one.value for one in Role} == {
        "tenant",
        "incoming",
        "former",
        "archived",
        "blueprint",
        "edge",
        "rehearsal",
        "ballast",
    }
    assert {one.value for one in State} == {"", "new", "live", "moving", "suspended", "unknown"}
    assert replaced(replacing("restore", 4)) == ("restore", 4)


def written() -> dict[str, set[str]]:
    """Return the labels that calls of `as_labels` and `replacing` write, each with the modules of these calls."""
    found = defaultdict(set)
    for folder in ("bot", "commands", "schedules"):
        for path in (ROOT / folder).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for call in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                    continue
                if call.func.id == "replacing":
                    for name in ("reason", "replaced-by", "replaced-in"):
                        found[name].add(module)
                if call.func.id != "as_labels":
                    continue
                for keyword in call.keywords:
                    names = (
                        [keyword.arg]
                        if keyword.arg
                        else [key.value for key in getattr(keyword.value, "keys", []) if isinstance(key, ast.Constant)]
                    )
                    for name in names:
                        found[str(name).replace("_", "-")].add(module)
    for names in found.values():
        names.discard("bot.model.labels")
    return {name: modules for name, modules in found.items() if modules}


NUMBERS = [name for name, label in LABELS.items() if label.kind in ("number", "moment", "operation")]
PARSED = [*NUMBERS, "network-before"]


@pytest.mark.parametrize("nonsense", ["2026-11-30", "12 MB", "-1", "²", "9" * 30, "9" * 5000])
def test_a_label_that_is_no_number_counts_as_not_set(nonsense: str) -> None:
    assert number_of(nonsense) == moment_of(nonsense) == 0


def test_a_moment_beyond_the_calendar_counts_as_not_set() -> None:
    assert moment_of("1800000000") == 1_800_000_000
    assert moment_of("999999999999999") == 0
    assert number_of("999999999999999") == 999_999_999_999_999


@pytest.mark.parametrize("name", PARSED)
def test_a_label_edited_to_nonsense_hides_no_tenant_from_the_bot(tmp_path: Path, name: str) -> None:
    """Commands and schedules read all containers at once, so that one bad label could stop them all."""
    bench = make_bench(tmp_path)
    for tenant in ("client-x", "client-y"):
        bench.done(f"new {tenant}")
        bench.done(f"snapshot {tenant}", OPERATOR)
    label = {KEY + name: "12 of May"}
    bench.lxd.update("client-y", label)
    bench.lxd.world.machines["client-y"].snapshots[0].config.update(label)
    for text in ("list", "status client-y", "snapshots client-y", "hosts"):
        bench.answer(text, OPERATOR)
    assert bench.done("stop client-x", OPERATOR).state == "succeeded"
    bench.clock.move(7200)
    for job in discover(schedules):
        job.run(bench.context)


def test_every_label_names_the_modules_that_write_it() -> None:
    assert written() == {name: set(label.writers) for name, label in LABELS.items()}
