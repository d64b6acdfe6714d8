"""Whenever the process dies, the operation ends well and only once after the restart.

The tests try every registered operation; one without an entry in `CASES` fails here.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import commands
from bot.engine.registry import Registry
from bot.engine.steps import PROBE
from bot.lxd.protocol import LxdError
from bot.store import audit, recovery
from bot.store.operation import Operation
from bot.store.recovery import MAX_ATTEMPTS
from tests.support.bot import BATCHES, CASES, Bench, as_it_was, containers, events, live, make_bench, notes

OPERATIONS = sorted({one.name for one in Registry(commands).commands.values() if one.kind == "operation"} - BATCHES)

LAST = {"rehearse": "judge"}
"""The last step that leaves something to roll back, where that is neither the probe nor the last step."""


class Killed(BaseException):
    """The process died here; no `except Exception` catches this."""


class Death:
    """Raises Killed at call number `at`, counted from 0, and at every later one; returns whether the next kills."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.moments: list[str] = []

    def __call__(self, moment: str) -> bool:
        self.moments.append(moment)
        self.left -= 1
        if self.left < 0:
            raise Killed(moment)
        return self.left == 0


def test_every_operation_has_a_case() -> None:
    assert set(OPERATIONS) == set(CASES)


class World:
    """A bot that is about to run an approved operation, as often as needed."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        self.case = CASES[command]
        bench = make_bench(folder / "prepared", members=self.case.members)
        self.case.prepare(bench)
        self.operation = bench.approve(bench.ask(self.case.text, self.case.actor))
        self.lxd = bench.lxd
        bench.context.database.close()
        self.copies = 0

    def begin(self, fault: Callable[[str], object] = lambda moment: None) -> Bench:
        self.copies += 1
        folder = self.folder / str(self.copies)
        shutil.copytree(self.folder / "prepared", folder)
        return make_bench(folder, copy_of(self.lxd), lambda moment: fault(moment) and None)

    def restart(self, dead: Bench) -> Bench:
        """Start the next process on the same folder and LXD: it recovers, and runs what is queued."""
        dead.context.database.close()
        dead.lxd.on_call = None
        bench = make_bench(self.folder / str(self.copies), dead.lxd)
        recovery.recover(bench.context.operations)
        bench.finish()
        return bench


def copy_of(lxd: Any) -> Any:
    """Return an independent simulated LXD in the same state."""
    other = type(lxd)()
    other.world = copy.deepcopy(lxd.world)
    return other


def ends_well(world: World, bench: Bench, moment: str) -> Operation:
    """Check what must be true at the end, whatever happened on the way."""
    operation = bench.context.operations.get(world.operation.id)
    assert operation.state == "succeeded", (moment, operation.outcome)
    assert containers(bench) == world.case.after, moment
    assert live(bench) == world.case.live, moment
    seen = Counter(events(bench, operation))
    cut = seen.pop("operation.requeued", 0)
    assert seen.pop("operation.resumed", 0) == cut <= 1, moment
    steps = len(operation.steps)
    assert seen.pop("operation.approved", 0) == bench.context.settings.policy(operation.command).approvals, moment
    assert seen == {
        "operation.requested": 1,
        "operation.started": 1,
        "step.started": steps,
        "step.finished": steps,
        "operation.succeeded": 1,
    }, moment
    assert all(step.finished for step in operation.steps), moment
    assert sum("took " in note.lower() for note in notes(bench, operation)) == 1, moment
    assert not audit.verify(bench.context.database).broken, moment
    bench.context.database.close()
    return operation


@pytest.mark.parametrize("command", OPERATIONS)
def test_dying_before_or_after_any_record_does_no_harm(tmp_path: Path, command: str) -> None:
    world = World(tmp_path, command)
    whole = Death(10_000)
    bench = world.begin(whole)
    bench.finish()
    ends_well(world, bench, "not killed")
    assert len(whole.moments) == 4 * len(world.operation.steps) + 2
    for number, moment in enumerate(whole.moments):
        bench = world.begin(Death(number))
        with pytest.raises(Killed, match=moment):
            bench.finish()
        ends_well(world, world.restart(bench), moment)


@pytest.mark.parametrize("command", OPERATIONS)
@pytest.mark.parametrize("lost", [pytest.param("the call", marks=pytest.mark.long), "the answer"])
def test_dying_within_any_call_of_lxd_does_no_harm(tmp_path: Path, command: str, lost: str) -> None:
    world = World(tmp_path, command)
    bench = world.begin()
    whole = Death(10_000)
    bench.lxd.on_call = lambda method, arguments: whole(method) and None
    bench.finish()
    bench.lxd.on_call = None
    ends_well(world, bench, "not killed")
    for number, method in enumerate(whole.moments):
        bench = world.begin()
        kill_in_call(bench, number, after=lost == "the answer")
        with pytest.raises(Killed):
            bench.finish()
        ends_well(world, world.restart(bench), f"call {number}: {method}")


def kill_in_call(bench: Bench, number: int, *, after: bool) -> None:
    """Die before the n-th call of LXD, or (`after`) when LXD has done it but its answer is not there yet."""
    death = Death(number + after)

    def on_call(method: str, arguments: tuple[Any, ...]) -> None:
        if death(method) and after:
            bench.lxd.fail_next(method, Killed(method), after=True)  # type: ignore[arg-type]

    bench.lxd.on_call = on_call


@pytest.mark.parametrize("command", sorted(set(OPERATIONS) - {"snapshot", "prune", "purge", "tag"}))
def test_dying_while_it_is_taken_back_does_no_harm(tmp_path: Path, command: str) -> None:
    world = World(tmp_path, command)
    titles, keys = zip(*((step.title, step.key) for step in world.operation.steps), strict=True)
    last = keys.index(LAST.get(command, PROBE)) if {PROBE, LAST.get(command)} & {*keys} else len(keys) - 1
    for number in itertools.count():
        bench = world.begin()

        def fault(moment: str, bench: Bench = bench, number: int = number) -> None:
            if moment == f"ran {last}":
                kill_in_call(bench, number, after=True)
                raise LxdError("LXD could not.")

        bench.runner.fault = fault
        try:
            bench.finish()
        except Killed:
            bench = world.restart(bench)
        else:
            break
        operation = bench.context.operations.get(world.operation.id)
        assert (operation.state, operation.outcome) == ("failed", "LXD could not."), number
        assert as_it_was(bench, world.case), number
        assert f"failed at “{titles[last]}”; rolled back" in notes(bench, operation)[-1]
        bench.context.database.close()
    assert number


@pytest.mark.parametrize("command", OPERATIONS)
def test_an_operation_that_is_interrupted_too_often_needs_a_person(tmp_path: Path, command: str) -> None:
    world = World(tmp_path, command)
    bench = world.begin(Death(1))
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Killed):
            bench.finish()
        bench.context.database.close()
        bench = make_bench(tmp_path / str(world.copies), bench.lxd, lambda moment: Death(0)(moment) and None)
        recovery.recover(bench.context.operations)
    operation = bench.context.operations.get(world.operation.id)
    assert operation.state == "needs_attention"
    assert operation.outcome == f"Interrupted {MAX_ATTEMPTS} times by a crash or restart of the bot."
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "needs_attention", "it does not run by itself"
    again = make_bench(tmp_path / str(world.copies), bench.lxd)
    recovery.retry(again.context.operations, operation, "U0OPSLEAD")
    again.finish()
    assert again.context.operations.get(operation.id).state == "succeeded"
    assert containers(again) == world.case.after
