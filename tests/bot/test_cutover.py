"""Cutovers, with a command that exists only here, `refit`: it defines only what its candidate is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import commands
from bot.engine.context import Context, Run
from bot.engine.cutover import Cutover
from bot.engine.registry import Registry, TenantArgument, call, declare, operation, steps_of
from bot.engine.runner import Runner
from bot.engine.steps import PROBE, probing
from bot.fleet import ballast
from bot.guest.mautic import CLOSED, MUTE
from bot.lxd.protocol import LxdError, PoolFull
from bot.model.labels import Role, State, as_labels, label_of, role_of, state_of
from bot.model.plan import Plan, Step, Steps
from bot.model.tenants import Tenant
from bot.slack.announcer import failure_buttons
from bot.slack.messages import Renderer
from bot.store import recovery
from bot.store.operation import SYSTEM, Operation
from tests.bot.test_durability import Death, Killed, copy_of
from tests.support.bot import CASES, OPERATOR, Bench, containers, live, make_bench

READS = {"instance", "instances", "state"}
STEPS = ("close", "make", "start", "change", "probe", "keep")


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    old: Tenant
    days: int


@operation
def refit(context: Context, tenant: TenantArgument) -> Plan:
    """Replace a tenant with a copy of itself, made once the tenant is closed."""
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant},
        summary="",
        facts={},
        inputs=Inputs(context.fleet.tenant(tenant), 3),
        seconds=1,
        cutover="refit",
    )


@steps_of(refit)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Make the candidate from the closed old container."""
    host = run.fleet.of(inputs.old)
    cutover = Cutover(run, inputs.old, host, "refit", days=inputs.days)

    def copy(config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        host.lxd.copy(inputs.old.instance, cutover.name, config=config, devices=devices)

    def close() -> str | None:
        return None if cutover.serves() else cutover.close()

    return Steps(
        (
            Step("close", "Close it", close),
            Step("make", "Copy it", lambda: cutover.make(copy, closed=True)),
            Step("start", "Start the copy", cutover.start),
            Step("change", "Open it", cutover.switch),
            probing(cutover.probe),
            Step("keep", "Keep the old one", cutover.keep),
        ),
        undo=cutover.roll_back,
        commit=PROBE,
    )


class Words(Renderer):
    """A renderer that needs no template for `refit`."""

    def words(self, template: str, **state: object) -> str:
        return "done" if template == "commands/refit.j2" else super().words(template, **state)


def with_refit(bench: Bench, fault: Callable[[str], object] = lambda moment: None) -> Bench:
    """Return the bench with the command `refit`."""
    registry = Registry(commands)
    registry.commands["refit"] = declare("refit", refit)
    context = replace(bench.context, registry=registry, renderer=Words())
    return replace(bench, context=context, runner=Runner(context, 1, lambda moment: fault(moment) and None))


def asked(bench: Bench) -> Operation:
    plan = call(bench.context.registry.command("refit"), bench.context, {"tenant": "client-x"})
    assert isinstance(plan, Plan)
    return bench.context.operations.request(
        "refit", plan, requester=SYSTEM, channel="", request_key="refit", hours=1, approved=True
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path / "1")
    made.done("new client-x")
    return with_refit(made)


def ended(bench: Bench, number: int) -> Operation:
    bench.finish()
    return bench.context.operations.get(number)


def has_taken_the_place(bench: Bench, number: int) -> bool:
    name = f"client-x--{number}"
    old, new = bench.lxd.instance("client-x").config, bench.lxd.instance(name).config
    assert (label_of(old, "replaced-by"), label_of(old, "replaced-in")) == ("refit", str(number))
    assert int(label_of(old, "kept-until")) == int(bench.clock()) + 3 * 86_400
    assert not bench.lxd.instance("client-x").running
    assert not {CLOSED, MUTE} & set(bench.lxd.world.machines[name].files)
    return (role_of(old), role_of(new), live(bench)) == (Role.RETIRED, Role.TENANT, True)


def test_the_candidate_takes_the_tenants_place(bench: Bench) -> None:
    done = ended(bench, asked(bench).id)
    assert done.state == "succeeded", done.outcome
    assert tuple(step.key for step in done.steps) == STEPS
    assert has_taken_the_place(bench, done.id)


@pytest.mark.parametrize("step", range(5))
def test_after_a_failure_before_the_commit_point_the_old_container_serves(bench: Bench, step: int) -> None:
    def fault(moment: str) -> None:
        if moment == f"ran {step}":
            raise LxdError("LXD could not.")

    bench.runner.fault = fault
    failed = ended(bench, asked(bench).id)
    assert (failed.state, failed.outcome) == ("failed", "LXD could not.")
    assert (containers(bench), live(bench)) == ({"client-x"}, True)
    bench.runner.fault = lambda moment: None
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    assert ended(bench, failed.id).state == "succeeded"
    assert has_taken_the_place(bench, failed.id)


@pytest.mark.parametrize(("step", "serves"), [("start", True), ("change", False)])
def test_on_a_full_pool_a_candidate_that_was_never_open_is_deleted_for_the_old_container(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, serves: bool
) -> None:
    """Nothing starts on a full pool, and a candidate without data of its own matters less than a served client."""
    monkeypatch.setattr(ballast, "COUNTED", 0.1)
    number = asked(bench).id
    names = {"client-x", f"client-x--{number}"}
    # An upgrade has stopped the old container by then.
    bench.lxd.stop("client-x", force=True)

    def fault(moment: str) -> None:
        if moment == f"ran {STEPS.index(step)}":
            bench.lxd.on_call = full
            raise PoolFull("LXD could not do it: the storage pool is full.")

    def full(method: str, arguments: tuple[Any, ...]) -> None:
        if (method, arguments[:1]) == ("start", ("client-x",)) and names <= bench.lxd.world.machines.keys():
            raise PoolFull("LXD could not do it: the storage pool is full.")

    bench.runner.fault = fault
    failed = ended(bench, number)
    bench.lxd.on_call = None
    assert (failed.state, live(bench)) == ("failed" if serves else "needs_attention", serves)
    assert containers(bench) == ({"client-x"} if serves else names)


def test_after_the_commit_point_only_a_retry_is_possible(bench: Bench) -> None:
    def fault(moment: str) -> None:
        if moment == "before 5":
            raise LxdError("LXD could not.")

    bench.runner.fault = fault
    stuck = ended(bench, asked(bench).id)
    assert (stuck.state, stuck.aftermath["safe"]) == ("needs_attention", "retry")
    assert stuck.aftermath["advice"] == "Retry is safe: it finishes the refit, and nothing is lost."
    assert [one["action_id"] for one in failure_buttons(stuck)] == ["retry", "give_up"], (
        "no Undo, which would only fail"
    )
    assert live(bench)
    bench.runner.fault = lambda moment: None
    # The button may still be on an older card.
    recovery.undo(bench.context.operations, stuck, OPERATOR.id)
    assert ended(bench, stuck.id).state == "needs_attention"
    recovery.retry(bench.context.operations, bench.context.operations.get(stuck.id), OPERATOR.id)
    assert ended(bench, stuck.id).state == "succeeded"
    assert has_taken_the_place(bench, stuck.id)


def test_dying_at_any_record_or_in_any_call_does_no_harm(bench: Bench, tmp_path: Path) -> None:
    number = asked(bench).id
    lxd, folder = copy_of(bench.lxd), tmp_path / "1"
    bench.context.database.close()
    kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    whole = Death(10_000)

    def begin(death: Death) -> Bench:
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        made = with_refit(make_bench(folder, copy_of(lxd)), death)
        made.lxd.on_call = lambda method, _: death(method) and None
        return made

    first = begin(whole)
    assert ended(first, number).state == "succeeded"
    first.context.database.close()
    for at, moment in enumerate(whole.moments):
        cut = begin(Death(at))
        with pytest.raises(Killed):
            cut.finish()
        cut.context.database.close()
        cut.lxd.on_call = None
        again = with_refit(make_bench(folder, cut.lxd))
        recovery.recover(again.context.operations)
        done = ended(again, number)
        assert done.state == "succeeded", (at, moment, done.outcome)
        assert has_taken_the_place(again, number), (at, moment)
        again.context.database.close()


def test_asking_for_the_state_of_a_cutover_changes_nothing(bench: Bench) -> None:
    number = asked(bench).id
    old = bench.context.fleet.tenant("client-x")
    told: dict[str, tuple[bool, bool, bool]] = {}

    def look(moment: str) -> None:
        run = replace(bench.context.run(), operation=number)
        cutover = Cutover(run, old, bench.context.fleet.of(old), "refit", days=3)
        bench.lxd.calls.clear()
        told[moment] = cutover.is_copied(), cutover.serves(), cutover.is_committed()
        cutover.candidate()
        assert set(bench.lxd.calls) <= READS, moment

    bench.runner.fault = look
    assert ended(bench, number).state == "succeeded"
    assert told["before 1"] == (False, False, False)
    assert told["ran 1"] == (True, False, False)
    assert told["ran 3"] == (True, True, False)
    assert told["recorded 4"] == (True, True, True)


def test_a_candidate_that_was_copied_only_in_part_does_not_count(bench: Bench) -> None:
    number = asked(bench).id
    bench.lxd.fail_next("update", LxdError("LXD could not."))
    old = bench.context.fleet.tenant("client-x")
    host = bench.context.fleet.of(old)
    cutover = Cutover(replace(bench.context.run(), operation=number), old, host, "refit", days=3)
    made: list[str] = []

    def copy(config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        made.append(cutover.name)
        host.lxd.copy("client-x", cutover.name, config=config, devices=devices)

    with pytest.raises(LxdError):
        cutover.make(copy)
    assert cutover.candidate() is not None
    assert not cutover.is_copied()
    assert containers(bench) == {"client-x", cutover.name}, "asking removed nothing"
    cutover.make(copy)
    cutover.make(copy)
    assert cutover.is_copied()
    assert len(made) == 2, "the incomplete copy was replaced, the complete one was kept"
    cutover.boot()
    assert CLOSED in bench.lxd.world.machines[cutover.name].files
    assert state_of(bench.lxd.instance("client-x").config) == State.LIVE, "the old container is unchanged"


@pytest.mark.parametrize(
    ("label", "by_itself"), [({}, True), (as_labels(furniture=2), False), ({"security.devlxd": "false"}, False)]
)
def test_a_candidate_starts_closed(bench: Bench, label: dict[str, str], by_itself: bool) -> None:
    """Its labels close it, or a file that is put into it where the container would not read its labels."""
    number = asked(bench).id
    old = bench.context.fleet.tenant("client-x")
    host = bench.context.fleet.of(old)
    cutover = Cutover(replace(bench.context.run(), operation=number), old, host, "refit", days=3)
    cutover.make(
        lambda config, devices: host.lxd.copy("client-x", cutover.name, config=config | label, devices=devices)
    )
    files = bench.lxd.world.machines[cutover.name].files
    assert (CLOSED not in files) is by_itself
    cutover.boot()
    assert {CLOSED, MUTE} <= files.keys()


@pytest.mark.parametrize(("command", "most"), [("restore", (18, 3, 54)), ("migrate", (18, 2, 74))])
def test_a_cutover_takes_no_more_requests_than_before(tmp_path: Path, command: str, most: tuple[int, int, int]) -> None:
    """Counts requests for asking, approving and running; each costs a round trip to a distant server."""
    case = CASES[command]
    bench = make_bench(tmp_path, members=case.members)
    case.prepare(bench)
    made = []
    for doing in (
        lambda: bench.ask(case.text, case.actor),
        lambda: bench.approve(bench.context.operations.select("state = 'awaiting_approval'")[0]),
        bench.finish,
    ):
        bench.lxd.calls.clear()
        doing()
        made.append(sum(bench.lxd.calls.values()))
    assert live(bench)
    assert all(count <= limit for count, limit in zip(made, most, strict=True)), made
