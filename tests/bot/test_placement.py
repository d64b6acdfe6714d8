"""A host that is full refuses: at the request, at the approval and when it would be begun."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bot.guest.simulated import change
from bot.model.plan import NoSpace, Refused
from bot.store import recovery
from bot.store.operation import Operation
from schedules.health import health
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, add_blueprint, make_bench
from tests.support.simulated_lxd import SimulatedLxd

MIB, GIB = 1 << 20, 1 << 30
SMALL = 3 * GIB * 6 // 100


def host(memory: float, **more: object) -> SimulatedLxd:
    lxd = SimulatedLxd(memory=int(memory * GIB), **more)  # type: ignore[arg-type]
    add_blueprint(lxd)
    return lxd


def bench_of(folder: Path, memory: float, **environment: str) -> Bench:
    bench = make_bench(folder, host(memory), **environment)
    bench.context.fleet.fresh = 0
    return bench


def fill(bench: Bench, most: int = 100) -> None:
    """Make tenants until one is refused; AssertionError when none is."""
    for number in range(most):
        try:
            bench.done(f"new filler-{running(bench)}-{number}")
        except NoSpace:
            return
    raise AssertionError(f"{most} were let in")


def running(bench: Bench) -> int:
    return sum(one.running for one in bench.lxd.instances())


@pytest.mark.parametrize("takes", [130 * MIB, 390 * MIB])
def test_more_than_fit_that_are_asked_for_and_approved_leave_the_host_well(tmp_path: Path, takes: int) -> None:
    """Whatever a tenant really takes: each is asked for once more when it begins, by what the host has then."""
    bench = bench_of(tmp_path, 8)
    bench.lxd.memory_of = lambda _: takes
    said: list[str] = []
    asked: list[Operation] = []
    for number in range(45):
        try:
            asked.append(bench.approve(bench.ask(f"new client-{number}")))
        except NoSpace as error:
            said.append(str(error))
    bench.finish()
    assert bench.lxd.killed == 0
    found = bench.lxd.resources()
    assert found.available >= 0.1 * found.total - takes
    assert len(said) == 45 - len(asked)
    assert "of memory needed" in said[0]
    ended = [bench.context.operations.get(one.id) for one in asked]
    assert running(bench) == sum(one.state == "succeeded" for one in ended)
    assert all("of memory needed" in one.outcome and not one.begun for one in ended if one.state == "failed")
    if takes < SMALL:
        assert 30 < running(bench) == len(asked)
    else:
        assert 12 < running(bench) < len(asked)


def test_sixty_in_one_request_and_then_as_many_as_memory_allows_for_what_they_take(tmp_path: Path) -> None:
    """On 24 GiB, as shipped; each takes 130 MiB of the host and tells half of it."""
    bench = bench_of(tmp_path, 24)
    bench.lxd.memory_of = lambda _: 130 * MIB
    bench.done(f"new {','.join(f'client-{number}' for number in range(60))}")
    assert running(bench) == 60
    for number in range(60):
        change(bench.lxd, f"client-{number}", memory=65 * MIB)

    def next_one() -> int:
        return int(bench.answer("new client-x").demand["memory"])

    assert next_one() == SMALL
    bench.clock.move(300)
    health(bench.context)
    assert 130 * MIB < next_one() < 155 * MIB
    bench.done(f"new {','.join(f'more-{number}' for number in range(40))}")
    assert running(bench) == 100
    # They grow: nothing more is let in, long before the reserve is touched.
    for number in range(60):
        change(bench.lxd, f"client-{number}", memory=240 * MIB)
    bench.clock.move(300)
    health(bench.context)
    for number in range(60):
        change(bench.lxd, f"client-{number}", memory=65 * MIB)
    bench.clock.move(6 * 86_400)
    health(bench.context)
    assert bench.lxd.resources().available > 8 * GIB
    with pytest.raises(NoSpace, match="promised to"):
        bench.answer("new client-x")


def test_what_was_approved_at_once_does_not_get_the_same_memory(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 8)
    asked = [bench.ask(f"new client-{number}") for number in range(40)]

    def approve(operation: Operation) -> bool:
        try:
            bench.approve(operation)
        except NoSpace:
            return False
        return True

    with ThreadPoolExecutor(8) as people:
        passed = list(people.map(approve, asked))
    # A reserve of 10 %, and what the host needs for itself.
    fit = int((8 * 0.9 - 1) * GIB // SMALL)
    assert sum(passed) == fit
    bench.finish()
    assert running(bench) == fit
    # The others wait, and can be approved once there is room.
    waiting = next(one for one, ok in zip(asked, passed, strict=True) if not ok)
    assert bench.context.operations.get(waiting.id).state == "awaiting_approval"
    bench.done("delete client-0" if passed[0] else "delete client-1", OPERATOR)


def test_what_needs_no_approval_is_stopped_when_it_would_begin(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 24)
    for number in range(10):
        bench.done(f"new client-{number}")
        bench.done(f"stop client-{number}", OPERATOR)
    asked = [bench.ask(f"start client-{number}", OPERATOR) for number in range(10)]
    # Meanwhile somebody else took the host's memory.
    bench.lxd.memory_of = lambda name: 20 * GIB if name == "client-0" else SMALL
    bench.finish()
    ended = [bench.context.operations.get(one.id) for one in asked]
    assert ended[0].state == "succeeded"
    failed = [one for one in ended if one.state == "failed"]
    assert failed
    assert all("cannot be started on `local`" in one.outcome for one in failed)
    assert all(not one.begun for one in failed)
    assert bench.lxd.killed == 0


def _sized(bench: Bench) -> None:
    bench.done("new client-x")
    bench.done("snapshot client-x", OPERATOR)


def _filled(bench: Bench) -> None:
    """Let something else take all but the reserve."""
    total = bench.lxd.resources().total
    taken = bench.lxd.resources().used
    bench.lxd.memory_of = lambda name: int(total * 0.895) - taken if name.startswith("blueprint") else SMALL
    bench.lxd.start(bench.context.fleet.blueprint().instance)


def _stopped(bench: Bench) -> None:
    bench.done("stop client-x", OPERATOR)


def _archived(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)


def _suspended(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    bench.lxd.stop("client-x")


def _nothing(_: Bench) -> None: ...


FULL = {
    "new client-y": _nothing,
    "new client-y --host local": _nothing,
    "start client-x": _stopped,
    "unarchive client-x": _archived,
    "resume client-x": _suspended,
    "restore client-x {snapshot}": _nothing,
    "resize client-x --plan large": _nothing,
}


@pytest.mark.parametrize("text", FULL)
def test_whatever_makes_something_run_asks_first(tmp_path: Path, text: str) -> None:
    bench = bench_of(tmp_path, 24)
    _sized(bench)
    before: Callable[[Bench], None] = FULL[text]
    before(bench)
    instance = bench.lxd.instances()[-1].name
    text = text.format(snapshot=bench.lxd.snapshots(instance)[0].name if "{" in text else "")
    asked = bench.ask(text, OPERATOR)
    if "client-y" in text or "resume" not in text:
        assert "left on local" in str(asked.plan["remarks"])
    _filled(bench)
    with pytest.raises(NoSpace, match=r"of memory needed, but .* free"):
        bench.answer(text.replace("client-y", "client-z"), OPERATOR)
    if asked.state == "awaiting_approval":
        with pytest.raises(NoSpace, match="still waits for approval"):
            bench.approve(asked, LEAD)
    else:
        bench.finish()
        ended = bench.context.operations.get(asked.id)
        assert (ended.state, ended.begun) == ("failed", 0)
        assert "of memory needed" in ended.outcome


def test_a_move_asks_the_target(tmp_path: Path) -> None:
    lxd = host(64, members=("node1", "node2"))
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    bench.done("new client-x --host node1")
    bench.done("new client-y --host node2")
    lxd.memory_of = lambda name: 58 * GIB if name == "client-y" else SMALL
    with pytest.raises(NoSpace, match="`client-x` cannot move to `node2`"):
        bench.answer("migrate client-x node2", OPERATOR)


def test_what_helps_on_a_full_host_can_be_done(tmp_path: Path) -> None:
    lxd = host(64, members=("node1", "node2", "node3"))
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    for text in ("new client-x --host node1", "new client-y --host node2", "new client-z --host node1"):
        bench.done(text)
    bench.done("snapshot client-x", OPERATOR)
    bench.done("stop client-z", OPERATOR)
    snapshot = lxd.snapshots("client-x")[0].name
    lxd.memory_of = lambda name: 60 * GIB if name in ("client-x", "client-y") else SMALL

    def said(text: str) -> str:
        with pytest.raises(NoSpace) as caught:
            bench.answer(text, OPERATOR)
        return str(caught.value)

    assert said(f"restore client-x {snapshot}").endswith("First `/mautic migrate client-x node3`.")
    assert said("resize client-x --plan large").endswith("First `/mautic migrate client-x node3`.")
    assert said("migrate client-x node2").endswith("Use `/mautic migrate client-x node3`."), "and not where it is"
    assert said("new client-a --host node1").endswith("Use `--host node3`.")
    assert said("start client-z").endswith(
        "Stop, resize or delete another tenant on `node1`, or add memory. `/mautic hosts` shows all."
    )
    # One that is suspended does not move.
    bench.done("suspend client-x", OPERATOR)
    assert "Stop, resize or delete" in said("resize client-x --plan large")
    bench.done("resume client-x", OPERATOR)
    # What leads there is possible.
    assert bench.done("migrate client-x node3", OPERATOR).state == "succeeded"


def test_a_request_that_waits_is_cancelled_before_what_helps_is_asked_for(tmp_path: Path) -> None:
    """It has a lock on its tenant."""
    lxd = host(64, members=("node1", "node2"))
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    bench.done("new client-x --host node1")
    asked = bench.ask("new client-a --host node1")
    lxd.memory_of = lambda name: 60 * GIB if name == "client-x" else SMALL
    with pytest.raises(
        NoSpace, match=rf"Cancel this request \(`/mautic cancel {asked.id}`\), then use `--host node2`\."
    ):
        bench.approve(asked, LEAD)


def test_placement_chooses_among_hosts_with_memory(tmp_path: Path) -> None:
    lxd = host(64, members=("node1", "node2"))
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    bench.done("new client-x --host node1")
    lxd.memory_of = lambda name: 60 * GIB
    # Its disk has as much room as the other's.
    assert bench.answer("new client-y").arguments["host"] == "node2"
    with pytest.raises(NoSpace, match=r"Use `--host node2`\."):
        bench.answer("new client-y --host node1")
    bench.done("new client-z --host node2")
    with pytest.raises(NoSpace, match="No host has capacity for one more tenant"):
        bench.answer("new client-y")


def test_what_stands_still_can_be_stopped_and_deleted_on_a_full_host(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 24)
    _sized(bench)
    _filled(bench)
    assert bench.done("stop client-x", OPERATOR).state == "succeeded"
    assert bench.done("delete client-x", OPERATOR).state == "succeeded"


def test_a_tenant_that_stopped_by_itself_keeps_its_place(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 3)
    bench.done("new client-x")
    bench.done("new client-y")
    bench.lxd.stop("client-x", force=True)
    # Its memory is free just now, and promised to it.
    fill(bench, 12)
    assert bench.done("start client-x", OPERATOR).state == "succeeded"


def test_what_tenants_really_use_counts(tmp_path: Path) -> None:
    """Measured to be small, more of them fit than the share of their plans says at first."""
    bench = bench_of(tmp_path, 6, MAUTIC_OPS_CAPACITY__OVERCOMMIT="0")
    bench.lxd.memory_of = lambda _: 100 * MIB
    counts = []
    for _round in range(3):
        fill(bench)
        counts.append(running(bench))
        bench.clock.move(300)
        health(bench.context)
    assert counts[0] < counts[1] <= counts[2]
    assert bench.lxd.killed == 0


def test_an_operation_that_has_begun_goes_on(tmp_path: Path) -> None:
    """After a crash in the middle it is not stopped half way because the host is full by now."""

    def fault(moment: str) -> None:
        if moment == "ran 0":
            raise KeyboardInterrupt

    lxd = host(24)
    bench = make_bench(tmp_path, lxd, fault)
    bench.approve(bench.ask("new client-x", ASKER))
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    again = make_bench(tmp_path, lxd)
    again.context.fleet.fresh = 0
    _filled(again)
    recovery.recover(again.context.operations)
    again.finish()
    assert again.context.operations.get(1).state == "succeeded"


def test_a_request_of_before_is_approved_and_done(tmp_path: Path) -> None:
    """One that was asked for when nobody counted memory has no demand kept with its plan."""
    bench = bench_of(tmp_path, 24)
    asked = bench.ask("new client-x")
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET plan = json_remove(plan, '$.demand')")
    bench.approve(bench.context.operations.get(asked.id))
    assert bench.answer("new client-y").demand
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"


def test_an_unknown_host_is_still_no_host(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no host"):
        bench_of(tmp_path, 24).answer("new client-x --host nowhere")
