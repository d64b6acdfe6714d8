"""`/mautic migrate`, and placement on hosts, cluster members and single servers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.edge.probe import Probe
from bot.engine.placement import LEAST
from bot.guest import simulated as simulated_tenant
from bot.guest.mautic import CLOSED, MUTE
from bot.lxd.protocol import LxdError, LxdUnavailable, NotFound
from bot.model.labels import label_of
from bot.model.plan import Refused
from bot.store import recovery
from schedules.purge import purge
from tests.support.bot import OPERATOR, Bench, live, make_bench, switch, until
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def other() -> SimulatedLxd:
    return SimulatedLxd()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.1)


@pytest.fixture
def bench(tmp_path: Path, other: SimulatedLxd) -> Bench:
    """Return a bench with two servers, and a tenant on the first."""
    made = make_bench(tmp_path, others={"solo": other})
    assert made.done("new client-x --host local").state == "succeeded"
    return made


def roles(lxd: SimulatedLxd) -> dict[str, str]:
    return {
        one.name: label_of(one.config, "role")
        for one in lxd.instances()
        if label_of(one.config, "tenant") == "client-x"
    }


def test_a_tenant_moves_to_another_server_and_the_old_container_is_kept(bench: Bench, other: SimulatedLxd) -> None:
    bench.done("snapshot client-x", OPERATOR)
    done = bench.done("migrate client-x solo", OPERATOR)
    assert done.state == "succeeded", done.outcome
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.host, tenant.instance) == ("solo", f"client-x--{done.id}")
    assert roles(other) == {f"client-x--{done.id}": "tenant"}
    assert roles(bench.lxd) == {"client-x": "former"}
    assert not bench.lxd.instance("client-x").running
    assert live(bench)
    for lxd, name in ((bench.lxd, "client-x"), (other, tenant.instance)):
        assert [one.name for one in lxd.snapshots(name)] == ["s-20270115-080000-2"], "its own snapshots, and no others"


def test_a_tenant_can_move_back(bench: Bench) -> None:
    bench.done("migrate client-x solo", OPERATOR)
    assert bench.done("migrate client-x local", OPERATOR).state == "succeeded"
    assert bench.context.fleet.tenant("client-x").host == "local"
    assert live(bench)


def test_a_failed_move_leaves_the_tenant_running_where_it_was(bench: Bench, other: SimulatedLxd) -> None:
    other.fail_next("start", LxdError("LXD could not start it."))
    ended = bench.done("migrate client-x solo", OPERATOR)
    assert (ended.state, ended.outcome) == ("failed", "LXD could not start it.")
    assert roles(other) == {}
    assert roles(bench.lxd) == {"client-x": "tenant"}
    assert bench.lxd.snapshots("client-x") == []
    assert live(bench)


def test_a_target_that_dies_leaves_the_tenant_running_where_it_was(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last note also names what is left on the target."""
    monkeypatch.setattr("bot.engine.cutover.ANSWER", 0.2)

    def dead(method: str, arguments: object) -> None:
        if bench.lxd.calls["stop"]:
            raise LxdUnavailable("LXD does not answer.")

    bench.lxd.calls.clear()
    other.on_call = dead
    ended = bench.done("migrate client-x solo", OPERATOR)
    assert (ended.state, ended.outcome) == ("failed", "LXD does not answer.")
    assert roles(bench.lxd) == {"client-x": "tenant"}
    assert live(bench)
    said = bench.context.database.read("SELECT text FROM notes ORDER BY id DESC LIMIT 1")[0]["text"]
    assert "could not be deleted yet" in said


def unseen(monkeypatch: pytest.MonkeyPatch, bench: Bench, then: Callable[[], None]) -> None:
    """Make every look at the page through the edge fail, and call `then` at each."""
    monkeypatch.setattr("bot.engine.cutover.ANSWER", 0.2)
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.1)

    def probe(_: str) -> Probe:
        then()
        return Probe(0, False, error="timed out")

    monkeypatch.setattr(bench.context.edge, "probe", probe)


def test_a_retry_does_not_reuse_the_candidate_of_an_earlier_try(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = switch(other)
    with monkeypatch.context() as patched:
        unseen(patched, bench, down.set)
        failed = bench.done("migrate client-x solo", OPERATOR)
    assert failed.state == "failed"
    simulated_tenant.change(bench.lxd, "client-x", writes=[("contacts", bench.clock())])
    down.clear()
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(failed.id).state == "succeeded"
    assert len(simulated_tenant.read(other, f"client-x--{failed.id}").writes) == 1


def test_a_changed_retention_policy_does_not_change_an_approved_move(tmp_path: Path) -> None:
    """The card shows how long the old container is kept.

    Before the move begins, another number of days makes another plan; afterwards the approved number holds.
    """
    for cut, state in (("before 0", "failed"), ("before 1", "succeeded"), ("before 8", "succeeded")):
        folder, other = tmp_path / cut, SimulatedLxd()
        bench = make_bench(folder, others={"solo": other})
        bench.done("new client-x --host local")
        bench.approve(bench.ask("migrate client-x solo", OPERATOR))

        def die(moment: str, cut: str = cut) -> None:
            if moment == cut:
                raise SystemExit

        bench.runner.fault = die
        with pytest.raises(SystemExit):
            bench.finish()
        bench.context.database.close()
        again = make_bench(folder, bench.lxd, others={"solo": other}, MAUTIC_OPS_RETENTION__FORMER_DAYS="14")
        recovery.recover(again.context.operations)
        again.finish()
        assert again.context.operations.get(2).state == state
        assert live(again)
        if state == "succeeded":
            kept = int(label_of(again.lxd.instance("client-x").config, "kept-until"))
            assert kept == int(again.clock()) + 7 * 86_400, "as it was approved"


def test_the_candidate_is_kept_while_the_source_does_not_answer(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source dies at the last moment, so for now the candidate is all that there is."""
    down = switch(bench.lxd)
    with monkeypatch.context() as patched:
        unseen(patched, bench, down.set)
        stuck = bench.done("migrate client-x solo", OPERATOR)
    assert stuck.state == "needs_attention"
    assert roles(other) == {f"client-x--{stuck.id}": "incoming"}
    assert live(bench)
    down.clear()
    recovery.retry(bench.context.operations, stuck, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(stuck.id).state == "succeeded"
    assert live(bench)


@pytest.mark.parametrize("seconds", [0.5, 0])
def test_once_the_candidate_serves_a_move_does_not_wait_for_its_source(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The source is silent for a moment, or for longer than the bot waits: then it is retired when it answers again."""
    down, real = switch(bench.lxd), bench.context.edge.probe

    def probe(domain: str) -> Probe:
        seen = real(domain)
        down.set()
        if seconds:
            threading.Timer(seconds, down.clear).start()
        return seen

    monkeypatch.setattr("bot.engine.steps.PATIENCE", 60 * seconds)
    with monkeypatch.context() as patched:
        patched.setattr(bench.context.edge, "probe", probe)
        done = bench.done("migrate client-x solo", OPERATOR)
    assert done.state == "succeeded", done.outcome
    candidate = f"client-x--{done.id}"
    assert roles(other) == {candidate: "tenant"}
    assert simulated_tenant.read(other, candidate).stopped == []
    told = done.steps[-1].note
    if not seconds:
        assert (
            told == "previous container client-x on local is retired as soon as that host answers: LXD does not answer."
        )
        down.clear()
        assert label_of(bench.lxd.instance("client-x").config, "role") == "tenant"
        assert [one.instance for one in bench.context.fleet.tenants()] == [candidate]
        assert [one.tenant.instance for one in bench.context.fleet.full_inventory().tenants] == [candidate]
        purge(bench.context)
    assert bench.context.fleet.tenant("client-x").instance == candidate
    retired = bench.lxd.instance("client-x")
    assert (retired.running, label_of(retired.config, "role")) == (False, "former")
    assert int(label_of(retired.config, "kept-until")) == int(bench.clock()) + 7 * 86_400
    assert live(bench)
    purge(bench.context)
    rows = bench.context.database.read("SELECT detail FROM audit WHERE event = 'container.retired'")
    assert len(rows) == (0 if seconds else 1)


def test_a_retry_of_the_last_step_does_not_need_the_source(bench: Bench, other: SimulatedLxd) -> None:
    down = switch(bench.lxd)
    operation = bench.approve(bench.ask("migrate client-x solo", OPERATOR))

    def fail(moment: str) -> None:
        if moment == "before 8":
            down.set()
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "needs_attention"
    bench.runner.fault = lambda moment: None
    recovery.retry(bench.context.operations, operation, OPERATOR.id)
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, ended.plan["facts"]["From"]) == ("succeeded", "local"), ended.outcome
    assert "previous container client-x on local is retired as soon as" in ended.steps[-1].note
    assert roles(other) == {f"client-x--{operation.id}": "tenant"}
    down.clear()
    purge(bench.context)
    assert roles(bench.lxd) == {"client-x": "former"}
    assert live(bench)


def test_the_candidate_sends_no_mail_before_the_point_of_no_return(bench: Bench, other: SimulatedLxd) -> None:
    seen: list[tuple[bool, bool]] = []
    real = bench.context.edge.probe

    def probe(domain: str) -> Probe:
        files = other.world.machines["client-x--2"].files
        seen.append((CLOSED in files, MUTE in files))
        return real(domain)

    bench.context.edge.probe = probe  # type: ignore[method-assign]
    assert bench.done("migrate client-x solo", OPERATOR).state == "succeeded"
    assert seen == [(False, True)]
    assert MUTE not in other.world.machines["client-x--2"].files


def test_after_a_failed_move_the_source_may_send_mail(bench: Bench, other: SimulatedLxd) -> None:
    other.fail_next("start", LxdError("LXD could not start it."))
    bench.done("migrate client-x solo", OPERATOR)
    assert MUTE not in bench.lxd.world.machines["client-x"].files


def test_a_tenant_can_be_found_at_every_moment_of_its_move(bench: Bench, other: SimulatedLxd) -> None:
    def look(method: str, arguments: tuple[Any, ...]) -> None:
        if method in ("update", "start", "stop", "execute"):
            bench.lxd.on_call = other.on_call = None
            assert bench.context.fleet.tenant("client-x")
            bench.lxd.on_call = other.on_call = look

    bench.lxd.on_call = other.on_call = look
    assert bench.done("migrate client-x solo", OPERATOR).state == "succeeded"


def test_the_late_cleanup_of_a_failed_try_leaves_the_new_candidate_alone(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target was slow when the first try was rolled back; by then a retry has made a new candidate."""
    monkeypatch.setattr("bot.engine.cutover.ANSWER", 0.1)
    answers = threading.Event()
    late: list[str] = []

    def slow(method: str, arguments: object) -> None:
        if threading.current_thread().name.startswith("discard"):
            if not answers.is_set():
                answers.wait(30)
            late.append(method)

    other.on_call = slow
    other.fail_next("start", LxdError("LXD could not start it."))
    failed = bench.done("migrate client-x solo", OPERATOR)
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(failed.id).state == "succeeded"
    answers.set()
    until(lambda: len(late) == 2)
    assert late == ["instance", "instance"], (
        "the cleanup only looks up the container: before it stops it, and before it deletes it"
    )
    assert live(bench)


def test_a_tenant_that_crashes_during_its_move_starts_closed(bench: Bench, other: SimulatedLxd) -> None:
    seals = []

    def look(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "receive" and other.calls["receive"] == 1:
            bench.lxd.stop("client-x")
        if method == "start":
            seals.append(CLOSED in other.world.machines[arguments[0]].files)

    other.on_call = look
    assert bench.done("migrate client-x solo", OPERATOR).state == "succeeded"
    assert seals == [True]
    assert live(bench)


def test_the_card_shows_what_moves_and_what_happens_if_it_fails(bench: Bench) -> None:
    plan = bench.answer("migrate client-x solo", OPERATOR)
    assert plan.facts["From"] == "local"
    assert plan.facts["To"] == "solo"
    assert plan.facts["Rollback"] == "automatic, client-x keeps running on local"
    assert "free" in plan.remarks["To copy"]


def test_the_target_needs_free_space_for_the_snapshots_too(
    bench: Bench, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        bench.lxd.snapshot("client-x", name)
    snapshots = [replace(one, size=200_000_000) for one in bench.lxd.snapshots("client-x")]
    monkeypatch.setattr(bench.lxd, "snapshots", lambda _: snapshots)
    other.world.pool_bytes = LEAST + 599_000_000
    with pytest.raises(Refused, match=r"`solo` has .* free; `client-x` needs 5\d\d MiB, and"):
        bench.answer("migrate client-x solo", OPERATOR)


def test_a_move_that_cannot_work_is_refused(bench: Bench, other: SimulatedLxd) -> None:
    for text, why in (
        ("migrate client-x local", "already runs on local"),
        ("migrate client-x sol", "did you mean `solo`"),
    ):
        with pytest.raises(Refused, match=why):
            bench.answer(text, OPERATOR)
    other.ensure_project(pool_driver="btrfs", pool_size="500MiB", subnet="10.70.0.1/24")
    with pytest.raises(Refused, match="`solo` has"):
        bench.answer("migrate client-x solo", OPERATOR)
    bench.done("stop client-x", OPERATOR)
    with pytest.raises(Refused, match="is not running"):
        bench.answer("migrate client-x solo", OPERATOR)


def test_a_new_tenant_goes_to_the_host_with_most_free_space_and_brings_the_blueprint(
    bench: Bench, other: SimulatedLxd
) -> None:
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="20GiB", subnet="10.70.0.1/24")
    plan = bench.answer("new client-y")
    assert plan.facts["Host"] == "solo"
    assert plan.remarks["Free space"].endswith("(the most of 2 hosts)")
    done = bench.done("new client-y")
    assert done.state == "succeeded", done.outcome
    assert other.instance("client-y").running
    assert bench.done("new client-z --host solo").state == "succeeded", "the blueprint is there already"
    with pytest.raises(NotFound):
        bench.lxd.instance("client-y")


def test_a_server_that_does_not_answer_does_not_stop_the_others(bench: Bench, other: SimulatedLxd) -> None:
    other.on_call = lambda method, arguments: (_ for _ in ()).throw(LxdUnavailable("LXD does not answer."))
    assert bench.done("restart client-x", OPERATOR).state == "succeeded"
    assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    with pytest.raises(LxdUnavailable, match="`solo` does not answer, so the bot cannot see all tenants"):
        bench.answer("status client-y")
    with pytest.raises(LxdUnavailable, match="does not answer"):
        bench.answer("new client-y")


def test_a_move_from_lxd_to_incus_says_that_there_is_no_way_back(bench: Bench, other: SimulatedLxd) -> None:
    other.product = "Incus"
    other.calls.clear()
    done = bench.done("migrate client-x solo", OPERATOR)
    assert done.state == "succeeded", done.outcome
    assert other.calls["server"] == 1, "after the request, making the plan again does not need the target"
    assert done.plan["reversible"] == "cannot be undone: LXD on local cannot import containers from Incus"
    with pytest.raises(Refused, match="`client-x` cannot move to local: LXD cannot import containers from Incus"):
        bench.ask("migrate client-x local", OPERATOR)


def test_a_blueprint_is_not_copied_from_incus_to_lxd(bench: Bench, other: SimulatedLxd) -> None:
    bench.lxd.product = "Incus"
    with pytest.raises(
        Refused, match="`solo` has no blueprint, and LXD cannot import one from Incus; use `--host local`"
    ):
        bench.ask("new client-y --host solo")


def test_a_container_that_a_crash_left_frozen_in_a_snapshot_of_the_move_is_thawed(
    bench: Bench, other: SimulatedLxd
) -> None:
    """A snapshot freezes the container where the server runs on another machine and its pool is btrfs."""

    class Killed(BaseException):
        pass

    taken = bench.lxd.snapshot

    def cut(name: str, snapshot: str, **more: Any) -> None:
        taken(name, snapshot, **more)
        bench.lxd.update(name, more["config"])
        bench.lxd.world.machines[name].status = "Frozen"
        raise Killed

    operation = bench.approve(bench.ask("migrate client-x solo", OPERATOR))
    bench.lxd.snapshot = cut  # type: ignore[method-assign]
    with pytest.raises(Killed):
        bench.finish()
    bench.lxd.snapshot = taken  # type: ignore[method-assign]
    recovery.recover(bench.context.operations)
    seen: list[str] = []
    bench.runner.fault = lambda moment: (
        seen.append(bench.lxd.instance("client-x").status) if "ran 1" in moment else None
    )
    bench.finish()
    assert seen == ["Running"]
    assert bench.context.operations.get(operation.id).state == "succeeded"
