"""The inputs of an operation are determined until it begins; from then on they come from the database."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import commands
from bot.engine import before_inputs
from bot.engine.registry import Registry
from bot.lxd.protocol import LxdUnavailable
from bot.model.labels import State, as_labels
from bot.model.plan import Plan, Refused, always, once, require
from bot.store import recovery
from tests.bot.test_durability import OPERATIONS, Death, Killed, World, ends_well
from tests.support.bot import BATCHES, CASES, LEAD, OPERATOR, Bench, make_bench

ROOT = Path(__file__).parents[2]
SNAPSHOT = "s-20270115-080000-2"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    made.done("new client-x")
    made.done("snapshot client-x", OPERATOR)
    return made


@pytest.mark.parametrize("command", OPERATIONS)
def test_a_started_operation_is_not_planned_again(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_again(*_: object, **__: object) -> Plan:
        raise AssertionError("it was asked for again")

    world = World(tmp_path, command)
    moments = [f"{moment} {number}" for number in range(len(world.operation.steps)) for moment in ("started", "ran")]
    for moment in moments:
        bench = world.begin(die_at(moment))
        with pytest.raises(Killed):
            bench.finish()
        with monkeypatch.context() as patched:
            registry = bench.context.registry
            patched.setitem(registry.commands, command, replace(registry.commands[command], function=asked_again))
            ends_well(world, world.restart(bench), moment)


@pytest.mark.parametrize("command", before_inputs.INPUTS)
def test_an_operation_begun_by_a_release_without_stored_inputs_continues(tmp_path: Path, command: str) -> None:
    world = World(tmp_path, command)
    whole = Death(10_000)
    world.begin(whole).finish()
    for number, moment in enumerate(whole.moments):
        bench = world.begin(Death(number))
        with pytest.raises(Killed):
            bench.finish()
        forget_inputs(bench)
        ends_well(world, world.restart(bench), moment)


@pytest.mark.parametrize("command", sorted(set(before_inputs.INPUTS) - {"snapshot", "prune", "purge", "tag"}))
def test_an_operation_begun_by_a_release_without_stored_inputs_can_be_undone(tmp_path: Path, command: str) -> None:
    """It was left halfway, and a person presses Undo after the update of the bot."""
    world = World(tmp_path, command)
    bench = world.begin(die_at("ran 0"))
    with pytest.raises(Killed):
        bench.finish()
    forget_inputs(bench)
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET state = 'needs_attention' WHERE id = ?", (world.operation.id,))
    bench.runner.fault = lambda moment: None
    recovery.undo(bench.context.operations, bench.context.operations.get(world.operation.id), OPERATOR.id)
    bench.finish()
    ended = bench.context.operations.get(world.operation.id)
    assert (ended.state, ended.outcome) == ("cancelled", "Rolled back")
    assert {one.name for one in bench.lxd.instances() if "blueprint" not in one.name} == CASES[command].untouched


def die_at(wanted: str) -> Any:
    def fault(moment: str) -> None:
        if moment == wanted:
            raise Killed(moment)

    return fault


def forget_inputs(bench: Bench) -> None:
    """Turn the stored operations into those of a release that stored no inputs."""
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET plan = json_remove(plan, '$.inputs', '$.cutover')")


def test_a_precondition_is_checked_again_at_the_approval_and_at_the_start(bench: Bench) -> None:
    asked = bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR)
    bench.lxd.update("client-x", as_labels(state=State.SUSPENDED))
    with pytest.raises(Refused, match=r"no longer matches what was requested\. `client-x` is suspended"):
        bench.approve(asked)
    bench.lxd.update("client-x", as_labels(state=State.LIVE))
    approved = bench.approve(bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR))
    bench.lxd.update("client-x", as_labels(state=State.SUSPENDED))
    bench.finish()
    ended = bench.context.operations.get(approved.id)
    assert (ended.state, ended.begun) == ("failed", 0)
    assert ended.outcome.startswith("`client-x` is suspended")


def test_the_choice_of_the_approver_becomes_an_input(bench: Bench) -> None:
    asked = bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert asked.plan["inputs"]["mail"] == ""
    bench.context.approvals.decide(asked.id, LEAD, "approve", typed_name="client-x", choice="off", via="test")
    bench.finish()
    assert bench.context.operations.get(asked.id).plan["inputs"]["mail"] == "off"
    assert bench.context.fleet.tenant("client-x").outbound_off


def test_a_second_check_leaves_out_what_is_checked_only_once() -> None:
    seen: list[str] = []

    def look(what: str) -> dict[str, str]:
        seen.append(what)
        return {what: "told"}

    plan = Plan(
        "x", {}, "", {}, seconds=1, requires=(always(look, "each time"), once(look, "once"), require(True, "No."))
    )
    assert plan.checked(again=False).remarks == {"each time": "told", "once": "told"}
    assert plan.checked(again=True).remarks == {"each time": "told"}
    assert seen == ["each time", "once", "each time"]
    for again in (False, True):
        with pytest.raises(Refused, match="No"):
            replace(plan, requires=(require(False, "No."),)).checked(again=again)
    assert replace(plan, requires=(require(False, "No.", again=False),)).checked(again=True)


@pytest.mark.parametrize("command", OPERATIONS)
def test_stored_steps_are_built_without_a_request_to_lxd(tmp_path: Path, command: str) -> None:
    world = World(tmp_path, command)
    bench = world.begin(die_at("started 0"))
    with pytest.raises(Killed):
        bench.finish()
    stored = bench.context.operations.get(world.operation.id)
    bench.lxd.calls.clear()
    plan = bench.context.registry.plan(bench.context, stored)
    assert plan.keys == tuple(step.key for step in stored.steps)
    assert sum(bench.lxd.calls.values()) == 0
    assert plan.fingerprint() == stored.fingerprint


def test_every_operation_has_steps_and_no_command_asks_whether_it_has_begun() -> None:
    for command in Registry(commands).commands.values():
        has_steps = command.kind == "operation" and command.name not in BATCHES
        assert (command.steps is not None) == has_steps, command.name
    for path in sorted((ROOT / "commands").glob("*.py")):
        assert modes(ast.parse(path.read_text())) == [], path.name
    assert modes(ast.parse("if context.operation: pass")) == [1]
    assert modes(ast.parse("a = 1 if not run.operation and b else 2")) == [1]
    assert modes(ast.parse("a = context.begun")) == [1]
    assert modes(ast.parse("a = b == context.operation")) == []


def modes(tree: ast.AST) -> list[int]:
    """Return the lines whose result depends on whether an operation exists or has begun."""
    decided: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            decided.append(node.test)
        elif isinstance(node, ast.BoolOp):
            decided += node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            decided.append(node.operand)
        elif isinstance(node, ast.Attribute) and node.attr == "begun":
            decided.append(node)
    return sorted(
        {one.lineno for one in decided if isinstance(one, ast.Attribute) and one.attr in ("operation", "begun")}
    )


@pytest.mark.parametrize("command", ["new", "suspend", "migrate"])
def test_a_started_operation_waits_for_the_host_of_its_tenant_before_it_continues(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reboot the bot may be up before LXD is."""
    world = World(tmp_path, command)
    bench = world.begin(die_at("started 0"))
    with pytest.raises(Killed):
        bench.finish()
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 30.0)
    bench.runner.later = 0.0
    recovery.recover(bench.context.operations)
    bench.runner.fault = lambda moment: None
    calls: list[str] = []

    def not_yet(method: str, _: object) -> None:
        calls.append(method)
        if len(calls) == 1:
            raise LxdUnavailable("LXD does not answer.")

    bench.lxd.on_call = not_yet
    bench.finish()
    ended = bench.context.operations.get(world.operation.id)
    assert (ended.state, ended.outcome) == ("succeeded", "done")
