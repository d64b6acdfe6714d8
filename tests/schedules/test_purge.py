"""What is kept of tenants is deleted for good when the days of the policy are over, and no day sooner."""

from __future__ import annotations

import itertools
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bot.engine.guards import Change, Guards, Moment
from bot.guest import simulated as simulated_tenant
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused
from bot.store import recovery
from bot.store.freezes import Freezes
from bot.store.uptime import LOOK_AGAIN
from schedules.id_floor import id_floor
from schedules.purge import purge
from tests.support.bot import LEAD, OPERATOR, Bench, add_newer_base, add_releases, containers, live, make_bench
from tests.support.simulated_lxd import SimulatedLxd

DAY = 86_400


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def tick(bench: Bench) -> None:
    purge(bench.context)
    bench.finish()


def seen_before(bench: Bench) -> None:
    """Run the job, and let hours pass: the first look that finds the days over deletes nothing."""
    with suppress(LxdUnavailable):
        tick(bench)
    bench.clock.move(LOOK_AGAIN)


def test_an_archive_is_deleted_when_its_days_are_over(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(30 * DAY - 1)
    tick(bench)
    bench.clock.move(1)
    tick(bench)
    bench.clock.move(LOOK_AGAIN - 1)
    tick(bench)
    assert containers(bench) == {"client-x--archived"}
    bench.clock.move(1)
    tick(bench)
    assert containers(bench) == set()
    (done,) = bench.context.operations.select("command = 'purge'")
    assert (done.requester, done.state, done.channel) == ("system", "succeeded", "")
    rows = bench.context.database.read(
        "SELECT detail FROM audit WHERE event = 'operation.requested' AND operation = ?", done.id
    )
    assert '"container": "client-x--archived"' in rows[0]["detail"]
    tick(bench)
    assert len(bench.context.operations.select("command = 'purge'")) == 1


@pytest.mark.parametrize("while_it_is_wrong", [True, False])
@pytest.mark.parametrize("days", [40, 4000, -40])
def test_a_wrong_clock_alone_deletes_nothing(bench: Bench, days: int, while_it_is_wrong: bool) -> None:
    bench.clock.move(DAY)
    if while_it_is_wrong:
        bench.clock.set(days * DAY)
    bench.done("delete client-x", OPERATOR)
    for _ in range(7):
        bench.clock.move(DAY)
        tick(bench)
    bench.clock.set((-days if while_it_is_wrong else days) * DAY)
    for _ in range(88):
        bench.clock.move(LOOK_AGAIN)
        tick(bench)
    assert containers(bench) == {"client-x--archived"}


@pytest.mark.parametrize("days", [40, -40])
def test_an_archive_is_deleted_once_the_clock_is_right_and_its_days_have_elapsed(bench: Bench, days: int) -> None:
    bench.clock.move(DAY)
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(20 * DAY)
    bench.clock.set(days * DAY)
    tick(bench)
    bench.clock.move(3600)
    tick(bench)
    bench.clock.set(-days * DAY)
    bench.clock.move(15)
    tick(bench)
    # A clock that was set back had the time of the archive twice, and the later one counts.
    bench.clock.move((10 if days > 0 else 30) * DAY + 1)
    seen_before(bench)
    tick(bench)
    assert containers(bench) == set()


def test_a_clock_that_is_ahead_on_the_last_day_deletes_nothing(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(29 * DAY)
    bench.clock.set(2 * DAY)
    tick(bench)
    bench.clock.move(LOOK_AGAIN)
    tick(bench)
    assert containers(bench) == {"client-x--archived"}


def test_without_a_recorded_uptime_an_archive_is_kept_for_its_days_from_now_on(bench: Bench, tmp_path: Path) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(60 * DAY)
    with bench.context.database.transaction() as transaction:
        for table in ("lived", "stretches", "second_looks"):
            transaction.execute(f"DELETE FROM {table}")
    again = make_bench(tmp_path, bench.lxd)
    again.clock.at = bench.clock.at
    for days, kept in ((1, True), (28, True), (2, True), (1, False)):
        again.clock.move(days * DAY)
        tick(again)
        assert bool(containers(again)) is kept


def test_with_a_retention_of_zero_days_nothing_is_deleted_automatically(tmp_path: Path) -> None:
    never = {"MAUTIC_OPS_RETENTION__ARCHIVE_DAYS": "0", "MAUTIC_OPS_RETENTION__FORMER_DAYS": "0"}
    bench = make_bench(tmp_path, **never)
    bench.done("new client-x")
    bench.done("new client-y")
    bench.done("snapshot client-x", OPERATOR)
    name = bench.lxd.snapshots("client-x")[0].name
    restore = bench.answer(f"restore client-x {name}", OPERATOR)
    assert restore.facts["Previous container"] == "kept, stopped, until deleted by hand"
    assert restore.remarks["Existing snapshots"].endswith("in the previous container (no automatic deletion)")
    assert bench.done(f"restore client-x {name}", OPERATOR).state == "succeeded"
    delete = bench.answer("delete client-y", OPERATOR)
    assert delete.facts["Data"] == "archived until deleted by hand"
    bench.done("delete client-y", OPERATOR)
    kept = containers(bench)
    for days in (1, 400, 4000):
        bench.clock.move(days * DAY)
        tick(bench)
        assert containers(bench) == kept
    assert "in the previous container (replaced by restore 4), kept until purged" in str(
        bench.answer("snapshots client-x", OPERATOR).blocks
    )
    bench.done("purge client-y", OPERATOR)
    assert containers(bench) == kept - {"client-y--archived"}


def test_a_container_that_a_restore_replaced_is_deleted_and_the_tenant_stays(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    until = bench.context.renderer.moment(bench.clock() + 7 * DAY)
    plan = bench.answer(f"restore client-x {snapshot.name}", OPERATOR)
    assert plan.remarks["Existing snapshots"] == f"1 stays in the previous container until {until}"
    assert bench.done(f"restore client-x {snapshot.name}", OPERATOR).state == "succeeded"
    candidate = "client-x--3"
    bench.clock.move(7 * DAY - 60)
    tick(bench)
    assert containers(bench) == {"client-x", candidate}
    bench.clock.move(120)
    seen_before(bench)
    tick(bench)
    assert containers(bench) == {candidate}
    assert live(bench)


def test_a_container_that_a_restore_replaced_is_kept_if_it_has_a_protected_snapshot(bench: Bench) -> None:
    bench.done("snapshot client-x --keep", OPERATOR)
    bench.clock.move(60)
    bench.done("snapshot client-x", OPERATOR)
    kept, snapshot = bench.lxd.snapshots("client-x")
    plan = bench.answer(f"restore client-x {snapshot.name}", OPERATOR)
    assert plan.remarks["Existing snapshots"] == (
        "2 stay in the previous container (no automatic deletion: 1 protected)"
    )
    assert bench.done(f"restore client-x {snapshot.name}", OPERATOR).state == "succeeded"
    bench.clock.move(70 * DAY)
    tick(bench)
    assert containers(bench) == {"client-x", "client-x--4"}
    assert bench.done(f"restore client-x {kept.name}", OPERATOR).state == "succeeded"
    assert bench.done("purge client-x client-x", OPERATOR).state == "succeeded"
    assert containers(bench) == {"client-x--4", "client-x--5"}


def test_the_source_of_a_move_is_deleted_even_if_it_has_a_protected_snapshot(tmp_path: Path) -> None:
    """The move has copied the snapshots."""
    bench = make_bench(tmp_path, others={"solo": SimulatedLxd()})
    for text in ("new client-x --host local", "snapshot client-x --keep", "migrate client-x solo"):
        assert bench.done(text, OPERATOR).state == "succeeded"
    bench.clock.move(7 * DAY)
    seen_before(bench)
    tick(bench)
    assert containers(bench) == set()


def test_an_archive_that_is_about_to_come_back_is_not_deleted(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(31 * DAY)
    seen_before(bench)
    operation = bench.ask("unarchive client-x", OPERATOR)
    tick(bench)
    assert containers(bench) == {"client-x--archived"}
    bench.approve(operation)
    bench.finish()
    tick(bench)
    assert containers(bench) == {"client-x"}
    assert live(bench)


def test_a_purge_that_fails_is_tried_again_later(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(31 * DAY)
    seen_before(bench)
    bench.lxd.fail_next("delete", LxdError("LXD could not delete it: busy."))
    tick(bench)
    tick(bench)
    assert [one.state for one in bench.context.operations.select("command = 'purge'")] == ["failed"]
    assert bench.lxd.instance("client-x--archived").config["security.protection.delete"] == "true"
    bench.clock.move(1000)
    tick(bench)
    assert containers(bench) == set()


def test_a_silent_server_does_not_stop_the_purge_on_the_others(tmp_path: Path) -> None:
    silent = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": silent})
    bench.done("new client-x --host local")
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(31 * DAY)

    def answer(*_: Any) -> None:
        raise LxdUnavailable("LXD on solo does not answer.")

    silent.on_call = answer
    seen_before(bench)
    with pytest.raises(LxdUnavailable, match="LXD on solo does not answer"):
        purge(bench.context)
    bench.finish()
    assert containers(bench) == set()


def test_a_purge_of_a_missing_copy_is_refused_while_a_server_is_silent(tmp_path: Path) -> None:
    silent = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": silent})
    silent.fail_next("instances", LxdUnavailable("LXD on solo does not answer."))
    with pytest.raises(LxdUnavailable, match="`solo` does not answer, so the bot cannot see all tenants"):
        bench.answer("purge client-x", OPERATOR)


def test_a_purge_that_cannot_be_requested_does_not_delay_the_others(bench: Bench) -> None:
    bench.done("new client-y")
    for tenant in ("client-x", "client-y"):
        bench.done(f"delete {tenant}", OPERATOR)
    bench.clock.move(31 * DAY)
    seen_before(bench)
    looks = itertools.count()

    def fail_for_the_first(method: str, _: tuple[Any, ...]) -> None:
        if method == "instances" and next(looks) == 1:
            raise LxdUnavailable("LXD does not answer.")

    bench.lxd.on_call = fail_for_the_first
    with pytest.raises(LxdUnavailable, match="LXD does not answer"):
        purge(bench.context)
    bench.lxd.on_call = None
    bench.finish()
    assert containers(bench) == {"client-x--archived"}


def cut_before_the_end_of_a_move(bench: Bench) -> None:
    """Kill the bot when the new page was seen and the old container is not retired yet."""

    def die(moment: str) -> None:
        if moment == "before 8":
            raise SystemExit

    bench.runner.fault = die
    with pytest.raises(SystemExit):
        bench.finish()


def guarded(bench: Bench, text: str) -> None:
    """Request an operation, after the guards were asked."""
    command, arguments = bench.context.registry.parse(text)
    Guards(bench.context).refuse(Moment.REQUEST, Change(command.name, arguments["tenant"], OPERATOR))
    bench.answer(text, OPERATOR)


def test_a_candidate_that_serves_survives_the_loss_of_the_database(tmp_path: Path) -> None:
    """The old container starts again only after somebody has deleted the candidate, with what clients wrote to it."""
    other = SimulatedLxd()
    bench = make_bench(tmp_path / "lost", others={"solo": other})
    bench.done("new client-x --host local")
    bench.approve(bench.ask("migrate client-x solo", OPERATOR))
    cut_before_the_end_of_a_move(bench)
    again = make_bench(tmp_path / "new", bench.lxd, others={"solo": other})
    id_floor(again.context)
    tick(again)
    assert other.instance("client-x--2").running
    assert live(again)
    for text, why in (
        ("start client-x", "`client-x--2` on solo serves `client-x`"),
        (
            "migrate client-x solo",
            r"A move, restore or upgrade of `client-x` was interrupted\. To bring the site online: "
            r"`/mautic start client-x`",
        ),
        ("delete client-x", "was interrupted"),
        ("suspend client-x", "was interrupted"),
    ):
        with pytest.raises(Refused, match=why):
            guarded(again, text)
    with pytest.raises(Refused, match="`client-x--2` on solo serves `client-x` now"):
        again.answer("purge client-x", OPERATOR)
    assert (
        again.answer("purge client-x client-x--2", OPERATOR)
        .facts["Goes offline"]
        .startswith("client-x, which client-x--2 on solo serves now; data that clients wrote there is lost")
    )
    assert again.done("purge client-x client-x--2", OPERATOR).state == "succeeded"
    assert again.done("start client-x", OPERATOR).state == "succeeded"
    tenant = again.context.fleet.tenant("client-x")
    assert (tenant.host, tenant.state, tenant.status, tenant.stopped) == ("local", "live", "Running", False)
    assert not simulated_tenant.read(bench.lxd, "client-x").stopped
    assert live(again)


def test_a_candidate_that_serves_survives_a_return_to_the_database_of_yesterday(tmp_path: Path) -> None:
    """In that database the request has not been approved, and expires."""
    other = SimulatedLxd()
    bench = make_bench(tmp_path / "today", others={"solo": other})
    bench.done("new client-x --host local")
    bench.ask("migrate client-x solo", OPERATOR)
    bench.context.database.close()
    shutil.copytree(tmp_path / "today", tmp_path / "yesterday")
    bench = make_bench(tmp_path / "today", bench.lxd, others={"solo": other})
    bench.approve(bench.context.operations.get(2))
    cut_before_the_end_of_a_move(bench)
    again = make_bench(tmp_path / "yesterday", bench.lxd, others={"solo": other})
    again.clock.move(2 * DAY)
    assert again.context.approvals.expire() == 1
    tick(again)
    assert live(again)


def test_what_a_move_left_on_a_silent_server_is_deleted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.cutover.ANSWER", 0.2)
    other = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": other})
    bench.done("new client-x --host local")

    def answer(method: str, _: Any) -> None:
        if other.calls["receive"] > 2:
            raise LxdUnavailable("LXD on solo does not answer.")

    other.on_call = answer
    assert bench.done("migrate client-x solo", OPERATOR).state == "failed"
    other.on_call = None
    assert other.instance("client-x--2")
    waiting = bench.ask("delete client-x", OPERATOR)
    tick(bench)
    assert [one.name for one in other.instances()] == []
    assert live(bench)
    assert bench.approve(waiting).state == "queued"


def test_a_container_that_cannot_be_retired_yet_is_recorded_once(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, members=("node1", "node2"))
    bench.done("new client-x --host node1")
    assert bench.done("migrate client-x node2").state == "succeeded"
    # As if its host had been silent at the end of the move.
    bench.lxd.update("client-x", as_labels(role="tenant", state="moving"))
    bench.lxd.fail_next("update", LxdError("LXD could not update it: the quota is exceeded."), times=3)
    for _ in range(5):
        bench.clock.move(300)
        with suppress(LxdError):
            purge(bench.context)
    assert label_of(bench.lxd.instance("client-x").config, "role") == "former"
    rows = bench.context.database.read("SELECT 1 FROM audit WHERE event = 'container.retired'")
    assert len(rows) == 1


def cut_in_a_rehearsal(bench: Bench, text: str = "rehearse client-x") -> set[str]:
    """Kill the bot when the copies of a rehearsal are made; return their names."""
    add_releases(bench, "6.0.10")
    add_newer_base(bench)
    before = containers(bench)
    asked = bench.approve(bench.ask(text, OPERATOR))

    def die(moment: str) -> None:
        for running in bench.context.operations.select("command = 'rehearse' AND state = 'running'"):
            keys = [step.key for step in running.steps]
            if "upgrade" in keys and moment == f"started {keys.index('upgrade')}":
                raise SystemExit

    bench.runner.fault = die
    with pytest.raises(SystemExit):
        bench.finish()
    bench.runner.fault = lambda moment: None
    assert bench.context.operations.get(asked.id).open
    made = containers(bench) - before
    assert made
    return made


@pytest.mark.parametrize(("text", "copies"), [("rehearse client-x", 1), ("rehearse client-x --base", 2)])
def test_the_copies_of_a_rehearsal_that_the_database_does_not_know_are_deleted(
    bench: Bench, tmp_path: Path, text: str, copies: int
) -> None:
    assert len(cut_in_a_rehearsal(bench, text)) == copies
    again = make_bench(tmp_path / "new", bench.lxd)
    id_floor(again.context)
    for _ in range(copies):
        tick(again)
    assert containers(again) == {"client-x"}
    assert {one.state for one in again.context.operations.select("command = 'purge'")} == {"succeeded"}
    assert live(again)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_copy_of_a_rehearsal_is_deleted_only_once_the_rehearsal_is_given_up(bench: Bench, frozen: bool) -> None:
    add_releases(bench, "6.0.10")
    bench.lxd.fail_next("delete", LxdError("LXD could not delete it: dataset is busy."), times=9)
    stuck = bench.done("rehearse client-x", OPERATOR)
    assert stuck.state == "needs_attention"
    bench.lxd.forgive()
    tick(bench)
    assert containers(bench) == {"client-x", "client-x--2"}
    bench.context.approvals.give_up(stuck, LEAD, "its dataset is busy", "")
    waiting = bench.ask("delete client-x", OPERATOR)
    if frozen:
        Freezes(bench.context.operations).begin("client-x", LEAD.id, "the sale is on", None)
    tick(bench)
    assert containers(bench) == {"client-x"}
    assert bench.context.operations.get(waiting.id).state == "awaiting_approval"


@pytest.mark.parametrize("text", ["rehearse client-x", "rehearse client-x,client-y"])
def test_the_copy_of_a_running_rehearsal_is_kept(bench: Bench, text: str) -> None:
    assert bench.done("new client-y").state == "succeeded"
    copies = cut_in_a_rehearsal(bench, text)
    purge(bench.context)
    assert bench.context.operations.select("command = 'purge'") == []
    assert copies <= containers(bench)
    recovery.recover(bench.context.operations)
    bench.finish()
    assert {one.state for one in bench.context.operations.select("command = 'rehearse'")} == {"succeeded"}
    assert containers(bench) == {"client-x", "client-y"}


def test_the_copy_of_a_rehearsal_that_ends_while_the_fleet_is_read_is_no_leftover(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_in_a_rehearsal(bench)
    recovery.recover(bench.context.operations)
    look = bench.context.fleet.inventory

    def slow(*roles: Any) -> Any:
        monkeypatch.undo()
        seen = look(*roles)
        bench.finish()
        return seen

    monkeypatch.setattr(bench.context.fleet, "inventory", slow)
    purge(bench.context)
    assert containers(bench) == {"client-x"}


def test_the_copy_of_a_rehearsal_is_kept_while_its_tenant_may_be_on_a_silent_server(tmp_path: Path) -> None:
    other = SimulatedLxd()
    bench = make_bench(tmp_path / "lost", others={"solo": other})
    bench.done("new client-x --host local")
    copies = cut_in_a_rehearsal(bench)
    again = make_bench(tmp_path / "new", other, others={"solo": bench.lxd})
    id_floor(again.context)
    # As if it had been moved after the rehearsal was interrupted.
    bench.lxd.update("client-x", as_labels(tenant="client-y"))

    def answer(*_: Any) -> None:
        raise LxdUnavailable("LXD on local does not answer.")

    other.on_call = answer
    with pytest.raises(LxdUnavailable, match="does not answer"):
        purge(again.context)
    again.finish()
    assert copies <= containers(bench)
    other.on_call = None
    tick(again)
    assert containers(bench) == {"client-x"}
