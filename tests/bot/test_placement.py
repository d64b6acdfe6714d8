"""A full host refuses operations: at the request, at the approval, and when they would begin."""

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
    """Create tenants until one is refused; raise AssertionError if none is."""
    for number in range(most):
        try:
            bench.done(f"new filler-{running(bench)}-{number}")
        except NoSpace:
            return
    raise AssertionError(f"{most} were let in")


def running(bench: Bench) -> int:
    return sum(one.running for one in bench.lxd.instances())


@pytest.mark.parametrize("takes", [130 * MIB, 390 * MIB])
def test_approving_more_tenants_than_fit_does_not_exhaust_the_host(tmp_path: Path, takes: int) -> None:
    """Whatever a tenant really uses: memory is checked again when each operation begins, by what the host has then."""
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


def test_after_a_request_for_sixty_tenants_their_measured_usage_decides_on_more(tmp_path: Path) -> None:
    """On 24 GiB, with the shipped settings; each tenant uses 130 MiB of the host and reports half of that."""
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
    # They grow, and no more tenants are let in, long before the reserve is touched.
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


def test_simultaneous_approvals_do_not_get_the_same_memory(tmp_path: Path) -> None:
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
    # Without the reserve of 10 %, and the 1 GiB that the host needs for itself.
    fit = int((8 * 0.9 - 1) * GIB // SMALL)
    assert sum(passed) == fit
    bench.finish()
    assert running(bench) == fit
    # The others still wait for approval.
    waiting = next(one for one, ok in zip(asked, passed, strict=True) if not ok)
    assert bench.context.operations.get(waiting.id).state == "awaiting_approval"
    bench.done("delete client-0" if passed[0] else "delete client-1", OPERATOR)
    assert approve(waiting), "the deleted tenant's memory is free"


def test_an_operation_that_needs_no_approval_is_refused_when_it_would_begin(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 24)
    for number in range(10):
        bench.done(f"new client-{number}")
        bench.done(f"stop client-{number}", OPERATOR)
    asked = [bench.ask(f"start client-{number}", OPERATOR) for number in range(10)]
    # Once it runs, `client-0` takes most of the host's memory.
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
def test_every_operation_that_starts_a_tenant_is_refused_on_a_full_host(tmp_path: Path, text: str) -> None:
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


def test_a_move_needs_memory_on_its_target(tmp_path: Path) -> None:
    lxd = host(64, members=("node1", "node2"))
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    bench.done("new client-x --host node1")
    bench.done("new client-y --host node2")
    lxd.memory_of = lambda name: 58 * GIB if name == "client-y" else SMALL
    with pytest.raises(NoSpace, match="`client-x` cannot move to `node2`"):
        bench.answer("migrate client-x node2", OPERATOR)


def test_the_refusal_on_a_full_host_names_what_can_be_done(tmp_path: Path) -> None:
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
    assert said("migrate client-x node2").endswith("Use `/mautic migrate client-x node3`."), (
        "not the host that it is on"
    )
    assert said("new client-a --host node1").endswith("Use `--host node3`.")
    assert said("start client-z").endswith(
        "Stop, resize or delete another tenant on `node1`, or add memory. `/mautic hosts` shows all."
    )
    # A suspended tenant does not move.
    bench.done("suspend client-x", OPERATOR)
    assert "Stop, resize or delete" in said("resize client-x --plan large")
    bench.done("resume client-x", OPERATOR)
    # The move that the refusals suggest is possible.
    assert bench.done("migrate client-x node3", OPERATOR).state == "succeeded"


def test_the_refusal_of_an_approval_says_to_cancel_the_request_first(tmp_path: Path) -> None:
    """The request that waits locks its tenant."""
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


def test_placement_chooses_among_hosts_with_free_memory(tmp_path: Path) -> None:
    lxd = host(64, members=("node1", "node2"))
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    bench.done("new client-x --host node1")
    lxd.memory_of = lambda name: 60 * GIB
    # The disks of both hosts have the same free space.
    assert bench.answer("new client-y").arguments["host"] == "node2"
    with pytest.raises(NoSpace, match=r"Use `--host node2`\."):
        bench.answer("new client-y --host node1")
    bench.done("new client-z --host node2")
    with pytest.raises(NoSpace, match="No host has capacity for one more tenant"):
        bench.answer("new client-y")


def test_a_tenant_can_be_stopped_and_deleted_on_a_full_host(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 24)
    _sized(bench)
    _filled(bench)
    assert bench.done("stop client-x", OPERATOR).state == "succeeded"
    assert bench.done("delete client-x", OPERATOR).state == "succeeded"


def test_a_tenant_that_stopped_by_itself_can_be_started_on_a_full_host(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 3)
    bench.done("new client-x")
    bench.done("new client-y")
    bench.lxd.stop("client-x", force=True)
    # Its memory is free now, but still promised to it.
    fill(bench, 12)
    assert bench.done("start client-x", OPERATOR).state == "succeeded"


def test_the_measured_usage_of_tenants_counts(tmp_path: Path) -> None:
    """More tenants fit once they are measured to be small than the expected share of their plans allows at first."""
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


def test_an_operation_that_has_begun_is_finished_on_a_full_host(tmp_path: Path) -> None:
    """After a crash in the middle it is not left half done because the host is full by now."""

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


def test_a_request_without_a_stored_demand_is_approved_and_done(tmp_path: Path) -> None:
    """Requests of releases that did not count memory have no demand in their plan."""
    bench = bench_of(tmp_path, 24)
    asked = bench.ask("new client-x")
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET plan = json_remove(plan, '$.demand')")
    bench.approve(bench.context.operations.get(asked.id))
    assert bench.answer("new client-y").demand
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"


def test_an_unknown_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no host"):
        bench_of(tmp_path, 24).answer("new client-x --host nowhere")
