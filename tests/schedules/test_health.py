"""The sweep: each trouble found within one, blips passed over, a host's trouble told once, no tenant held up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import pytest

from bot.engine import health_checks
from bot.engine.maintenance import DAY, Maintenance, forget
from bot.guest.simulated import change
from bot.lxd.protocol import LxdError, LxdUnavailable, PoolSpace
from bot.lxd.wire import NIC, given
from bot.model.labels import as_labels
from bot.store import metrics, recovery
from bot.store.jobs import Declared
from bot.store.recovery import MAX_ATTEMPTS
from schedules import health as sweep
from schedules.health import health
from tests.support.bot import LEAD, OPERATOR, ROOM_FOR_MANY, Bench, make_bench, make_desk
from tests.support.simulated_lxd import SimulatedLxd
from tests.support.sweep import heads, look


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "AGAIN", 0.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    bench.done("new client-y")
    bench.slack.said.clear()
    bench.clock.move(60)
    return bench


def notes(bench: Bench) -> list[str]:
    return [one["text"] for one in bench.slack.said if one["method"] == "chat.postMessage" and one["thread_ts"]]


def test_where_all_is_well_nothing_is_said_and_all_is_measured(bench: Bench) -> None:
    # The sweep itself leaves something in each tenant.
    bench.answer("status client-x")
    bench.answer("status client-y")
    assert look(bench) == []
    assert bench.slack.said == []
    measured = metrics.latest(bench.context.database, bench.clock())
    assert set(measured) == {"client-x", "client-y"}
    assert (measured["client-x"].up, measured["client-x"].contacts) == (1, 1200)
    assert measured["client-x"].disk
    (pool,) = metrics.pool_history(bench.context.database, "local", 0, bench.clock())
    assert (pool.used, pool.total) == (bench.lxd.pool().used, bench.lxd.pool().total)


@pytest.mark.parametrize(
    ("sick", "kind"),
    [
        ({"stopped": ["mautic-worker@email"], "queue_age": 9000}, "worker"),
        ({"stopped": ["cron"], "crons_ended": 1.0}, "cron"),
        ({"stopped": ["mariadb"]}, "database"),
        ({"stopped": ["nginx"]}, "web"),
        ({"crons_ended": 1.0}, "jobs"),
        ({"queue_age": 4000}, "queue"),
        ({"log_errors": 30}, "log"),
    ],
)
def test_a_sick_tenant_is_found_in_one_sweep_and_its_recovery_said_once(
    bench: Bench, sick: dict[str, Any], kind: str
) -> None:
    change(bench.lxd, "client-x", **sick)
    for _ in range(2):
        assert look(bench) == [("client-x", kind)]
    change(bench.lxd, "client-x", stopped=[], crons_ended=0, queue_age=0, log_errors=0)
    for _ in range(2):
        assert look(bench) == []
    assert len(heads(bench)) == 1
    assert notes(bench) == [":large_green_circle: Resolved after 10 min."]


def test_who_takes_anothers_address_is_found_and_the_other_is_not(bench: Bench) -> None:
    bench.lxd.claim("client-x", given(bench.lxd.instance("client-y")))
    assert look(bench) == [("client-x", "address")]
    bench.lxd.restart("client-x")
    assert look(bench) == []


def test_who_was_given_the_address_of_another_is_found(bench: Bench) -> None:
    bench.lxd.update("client-x", {}, {NIC: bench.lxd.instance("blueprint--5-2-12-double").devices[NIC]})
    assert ("client-x", "address") in look(bench)


def test_a_full_disk_is_found(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    bench.done("new client-x")
    bench.lxd.fill("client-x", 26 << 30)
    bench.lxd.snapshot("client-x", "all-of-it")
    assert bench.lxd.state("client-x").disk < 1 << 20, "as LXD counts it"
    bench.clock.move(60)
    assert look(bench) == [("client-x", "disk")]


def test_a_container_that_stopped_by_itself_is_found_and_one_that_was_stopped_is_not(bench: Bench) -> None:
    bench.lxd.stop("client-x")
    bench.done("stop client-y", OPERATOR)
    bench.clock.move(60)
    assert look(bench) == [("client-x", "stopped")]
    assert {name: one.up for name, one in metrics.latest(bench.context.database, bench.clock()).items()} == {
        "client-x": 0,
        "client-y": None,
    }
    bench.lxd.start("client-x")
    assert look(bench) == []


def test_who_is_suspended_or_stopped_while_sick_has_not_recovered(bench: Bench) -> None:
    for name in ("client-x", "client-y"):
        change(bench.lxd, name, stopped=["cron"])
    look(bench)
    bench.done("suspend client-x", OPERATOR)
    bench.done("stop client-y", OPERATOR)
    bench.clock.move(60)
    assert look(bench) == []
    assert notes(bench) == [
        f":large_green_circle: The tenant was {how}, so this is no longer monitored."
        for how in ("suspended", "stopped")
    ]


def test_who_is_suspended_is_not_sick(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    bench.clock.move(60)
    assert look(bench) == []


@pytest.mark.parametrize("state", ["queued", "running"])
def test_who_is_in_the_hands_of_an_operation_is_not_judged(bench: Bench, state: str) -> None:
    operation = bench.approve(bench.ask("delete client-x", OPERATOR))
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET state = ? WHERE id = ?", (state, operation.id))
    bench.lxd.stop("client-x")
    assert look(bench) == []


def left_half_done(bench: Bench, text: str) -> None:
    operation = bench.approve(bench.ask(text, OPERATOR))
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET state = 'needs_attention' WHERE id = ?", (operation.id,))


def test_a_tenant_that_serves_is_looked_at_whatever_was_left_half_done_beside_it(bench: Bench) -> None:
    """What needs attention holds the tenant until somebody acts, which may be long."""
    change(bench.lxd, "client-x", log_errors=30)
    assert look(bench) == [("client-x", "log")]
    left_half_done(bench, "snapshot client-x")
    change(bench.lxd, "client-x", log_errors=0)
    bench.clock.move(60)
    assert look(bench) == []
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "stopped")]


@pytest.mark.parametrize(
    ("stamped", "more"), [(as_labels(state="moving"), [("client-x", "move")]), (as_labels(role="former", state=""), [])]
)
def test_of_a_tenant_that_was_left_half_way_nothing_tells(
    bench: Bench, stamped: dict[str, str], more: list[tuple[str, str]]
) -> None:
    """Closed for its candidate, or given up for one that is no tenant yet: its incidents stay as they are."""
    change(bench.lxd, "client-x", log_errors=30)
    assert look(bench) == [("client-x", "log")]
    left_half_done(bench, "stop client-x")
    bench.lxd.update("client-x", stamped)
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "log"), *more]


def test_a_move_that_came_to_a_halt_is_told_until_it_goes_on(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    (snapshot,) = bench.lxd.snapshots("client-x")
    operation = bench.approve(bench.ask(f"restore client-x {snapshot.name}", OPERATOR))

    def die(moment: str) -> None:
        if moment == "ran 1":
            raise SystemExit

    bench.runner.fault = die
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(SystemExit):
            bench.finish()
        recovery.recover(bench.context.operations)
    bench.lxd.stop(f"client-x--{operation.id}")
    assert look(bench) == [("client-x", "move")]
    (incident,) = bench.context.incidents.open()
    assert incident.text.startswith("client-x is offline. The newest data is in ")
    assert f"Retry and Undo are on the card of request #{operation.id}." in incident.text
    assert metrics.latest(bench.context.database, bench.clock())["client-x"].up == 0
    bench.runner.fault = lambda moment: None
    recovery.undo(bench.context.operations, bench.context.operations.get(operation.id), OPERATOR.id)
    bench.clock.move(60)
    bench.finish()
    assert look(bench) == []


def test_of_a_move_that_no_operation_knows_of_it_says_how_the_tenant_goes_on(bench: Bench) -> None:
    bench.lxd.update("client-x", as_labels(state="moving"))
    assert look(bench) == [("client-x", "move")]
    assert "`/mautic start client-x` brings the site online" in bench.context.incidents.open()[0].text


def test_who_only_waits_for_an_approval_is_looked_at(bench: Bench) -> None:
    bench.ask("delete client-x", OPERATOR)
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "stopped")]


def test_what_an_operation_did_during_the_sweep_is_no_trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look sees the container stopped by an operation that is over before the sweep is."""
    seen = health_checks.at_tenants

    def meanwhile(*arguments: Any, **known: Any) -> Any:
        found = seen(*arguments, **known)
        bench.done("restart client-x", OPERATOR)
        return found

    monkeypatch.setattr(health_checks, "at_tenants", meanwhile)
    change(bench.lxd, "client-x", stopped=["cron"])
    assert look(bench) == []


def test_an_operation_that_a_clock_ahead_dated_into_the_future_holds_no_tenant(bench: Bench) -> None:
    bench.clock.move(400 * DAY)
    bench.done("snapshot client-x", OPERATOR)
    bench.clock.move(-400 * DAY)
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "stopped")]


def test_a_blip_is_passed_over_and_what_lasts_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    change(bench.lxd, "client-x", stopped=["nginx"])
    change(bench.lxd, "client-y", stopped=["nginx"])
    monkeypatch.setattr(sweep.time, "sleep", lambda _: change(bench.lxd, "client-x", stopped=[]))
    assert look(bench) == [("client-y", "web")]


def test_what_is_new_at_the_second_look_is_not_believed_yet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    change(bench.lxd, "client-x", stopped=["nginx"])
    monkeypatch.setattr(sweep.time, "sleep", lambda _: change(bench.lxd, "client-x", stopped=["cron"]))
    assert look(bench) == []


def test_a_silent_server_is_one_incident_and_its_tenants_stay_as_they_were(bench: Bench) -> None:
    change(bench.lxd, "client-x", log_errors=30)
    assert look(bench) == [("client-x", "log")]
    silent = LxdUnavailable("LXD does not answer.")
    bench.lxd.fail_next("full_instances", silent)
    assert look(bench) == [("client-x", "log")], "it was a blip"
    for _ in range(2):
        bench.lxd.fail_next("full_instances", silent)
        bench.lxd.fail_next("instances", silent)
        assert look(bench) == [("client-x", "log"), ("local", "server")]
    change(bench.lxd, "client-x", log_errors=0)
    assert look(bench) == []
    assert len(heads(bench)) == 2


def test_tenants_that_stop_at_once_are_told_at_once_where_they_are_few(bench: Bench) -> None:
    for name in ("client-x", "client-y"):
        bench.lxd.stop(name)
    assert look(bench) == [("client-x", "stopped"), ("client-y", "stopped")]


def test_a_host_that_was_off_has_its_time_to_start_its_tenants(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """LXD starts them one after the other; the bot may stand on it, so that nobody saw it off."""
    monkeypatch.setattr(sweep, "FEW", 1)
    look(bench)
    bench.clock.move(3600)
    for name in ("client-x", "client-y"):
        bench.lxd.stop(name)
    assert look(bench) == []
    for name in ("client-x", "client-y"):
        bench.lxd.start(name)
    assert look(bench) == []
    for name in ("client-x", "client-y"):
        bench.lxd.stop(name)
    for _ in range(3):
        assert look(bench) == []
    assert look(bench) == [("client-x", "stopped"), ("client-y", "stopped")], "it has had its time"


def test_a_server_that_was_silent_has_its_time_to_start_its_tenants(bench: Bench) -> None:
    silent = LxdUnavailable("LXD does not answer.")
    bench.lxd.fail_next("full_instances", silent)
    bench.lxd.fail_next("instances", silent)
    assert look(bench) == [("local", "server")]
    bench.lxd.stop("client-x")
    change(bench.lxd, "client-y", stopped=["nginx"], log_errors=30)
    for _ in range(4):
        assert look(bench) == [("client-y", "log")], "which is no blip"
    assert look(bench) == [("client-y", "log"), ("client-x", "stopped"), ("client-y", "web")]


@pytest.fixture
def cluster(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, members=("node1", "node2", "node3"), MAUTIC_OPS_SLACK__CHANNEL="C0OPS")


def test_a_member_that_is_removed_takes_its_incident_along(cluster: Bench) -> None:
    cluster.lxd.set_online("node3", False)
    assert look(cluster) == [("node3", "server")]
    cluster.lxd.world.members.remove("node3")
    cluster.lxd.fail_next("members", LxdUnavailable("LXD does not answer."))
    assert look(cluster) == [("node3", "server")], "nobody has said yet that it is gone"
    assert look(cluster) == []
    assert notes(cluster) == [":large_green_circle: Resolved: the server no longer exists."]


def test_a_member_whose_pool_cannot_be_read_is_no_trouble_of_the_others(
    cluster: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SimulatedLxd.pool

    def pool(lxd: SimulatedLxd) -> PoolSpace:
        if lxd.member == "node2":
            raise LxdError("Its pool is not mounted.")
        return read(lxd)

    monkeypatch.setattr(SimulatedLxd, "pool", pool)
    assert look(cluster) == [("node2", "server")]
    rows = cluster.context.database.read("SELECT host FROM host_samples ORDER BY host")
    assert [row["host"] for row in rows] == ["node1", "node3"]


def test_where_no_page_answers_it_is_the_edge(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = type(bench.context.edge.probe("client-x.mautic.localhost"))
    monkeypatch.setattr(bench.context.edge, "probe", lambda *_: probe(0, False, "ConnectionRefusedError"))
    assert look(bench) == [("the edge", "edge")]
    (incident,) = bench.context.incidents.open()
    assert incident.text.endswith("`/mautic doctor` checks the edge, and restarts it.")
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    assert look(bench) == []


def test_a_host_may_be_called_as_the_edge_is(tmp_path: Path) -> None:
    named = SimulatedLxd()
    bench = make_bench(tmp_path, others={"edge": named})

    def silent(*_: Any) -> None:
        raise LxdUnavailable("LXD does not answer.")

    named.on_call = silent
    assert look(bench) == [("edge", "server")]


def test_an_edge_that_is_back_at_the_second_look_is_no_trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = bench.context.edge.probe
    refused = type(probe("client-x.mautic.localhost"))(0, False, "ConnectionRefusedError")
    monkeypatch.setattr(bench.context.edge, "probe", lambda *_: refused)
    monkeypatch.setattr(sweep.time, "sleep", lambda _: monkeypatch.setattr(bench.context.edge, "probe", probe))
    assert look(bench) == []


def test_where_some_pages_answer_it_is_not_the_edge(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.done("new client-z")
    bench.clock.move(60)
    probe = bench.context.edge.probe
    refused = type(probe("client-x.mautic.localhost"))(0, False, "ConnectionRefusedError")
    monkeypatch.setattr(
        bench.context.edge, "probe", lambda domain, *_: probe(domain) if domain.startswith("client-z") else refused
    )
    assert look(bench) == [("client-x", "page"), ("client-y", "page")]


def test_a_tenant_that_is_deleted_takes_its_incidents_along(bench: Bench) -> None:
    change(bench.lxd, "client-x", log_errors=30)
    look(bench)
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(60)
    assert look(bench) == []
    assert notes(bench)[-1] == ":large_green_circle: Resolved: the tenant no longer exists."


def test_one_that_hangs_holds_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    change(bench.lxd, "client-y", log_errors=30)
    let_go = threading.Event()
    probe, times = bench.context.edge.probe, iter([True])

    def hangs(domain: str, *_: Any) -> Any:
        if domain.startswith("client-x") and next(times, False):
            let_go.wait(20)
        return probe(domain)

    monkeypatch.setattr(bench.context.edge, "probe", hangs)
    monkeypatch.setattr(health_checks, "wait", lambda jobs, _: wait(jobs, return_when=FIRST_COMPLETED))
    try:
        assert look(bench) == [("client-y", "log")]
    finally:
        let_go.set()


class ComesToOne:
    """Threads that come to the first work that they are given, and to no other before time is up."""

    def __init__(self, _width: int) -> None:
        self.given: list[Future[Any]] = []

    def submit(self, work: Callable[..., Any], *words: Any) -> Future[Any]:
        self.given.append(future := Future())
        if len(self.given) == 1:
            future.set_result(work(*words))
        return future

    def shutdown(self, **_: bool) -> None:
        for future in self.given:
            future.cancel()


def test_whom_a_sweep_did_not_come_to_the_next_one_looks_at_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.done("new client-z")
    monkeypatch.setattr(health_checks, "ThreadPoolExecutor", ComesToOne)
    monkeypatch.setattr(health_checks, "BUDGET", 0)
    seen = []
    for _ in range(4):
        look(bench)
        seen += metrics.latest(bench.context.database, bench.clock())
    assert seen == ["client-x", "client-y", "client-z", "client-x"]


def test_one_that_does_not_tell_of_itself_is_found(bench: Bench) -> None:
    bench.lxd.fail_next("execute", LxdUnavailable("LXD gave up after 20 s."), times=4)
    assert look(bench) == [("client-x", "inside"), ("client-y", "inside")]
    assert look(bench) == []


def test_snapshots_are_missed_while_somebody_is_to_take_them(bench: Bench) -> None:
    bench.context.jobs.declared.setdefault("snapshots", Declared("snapshots", "Take them", 60, lambda _: None))
    for _ in range(2 * 12):
        assert look(bench) == []
    for _ in range(2):
        found = look(bench)
    assert found == [("client-x", "snapshot"), ("client-y", "snapshot")]
    bench.context.jobs.pause("snapshots", LEAD.id)
    assert look(bench) == []


def test_a_restored_tenant_has_the_snapshots_of_before(bench: Bench) -> None:
    bench.lxd.clock = bench.clock
    bench.context.jobs.declared.setdefault("snapshots", Declared("snapshots", "Take them", 60, lambda _: None))
    for _ in range(2 * 12):
        look(bench)
    bench.done("snapshot client-x", OPERATOR)
    (taken,) = bench.lxd.snapshots("client-x")
    bench.done(f"restore client-x {taken.name}", OPERATOR)
    for _ in range(2):
        found = look(bench)
    assert found == [("client-y", "snapshot")]


def test_restart_and_logs_run_as_who_pressed(bench: Bench) -> None:
    desk = make_desk(bench)
    change(bench.lxd, "client-x", stopped=["mautic-worker@email"])
    look(bench)
    (incident,) = bench.context.incidents.open()
    desk.click("incident_logs", incident.mark, OPERATOR)
    assert "simulated line 40 of mautic" in str(bench.slack.said[-1]["blocks"])
    assert bench.slack.said[-1]["user"] == OPERATOR.id
    desk.click("incident_restart", incident.mark, OPERATOR)
    operation = desk.last()
    assert (operation.command, operation.requester, operation.arguments["part"]) == ("restart", OPERATOR.id, "worker")
    bench.finish()
    bench.clock.move(60)
    assert look(bench) == []


def maintain(bench: Bench, text: str, fails: tuple[str, ...] = ()) -> str:
    """Let the bot do something by itself, of which these calls of LXD fail; the state that it ends in."""
    for call in fails:
        bench.lxd.fail_next(call, LxdError("LXD could not do it: the pool is full."))
    Maintenance(bench.context).ask(text.split()[0], bench.answer(text))
    bench.finish()
    return bench.context.operations.select("1 = 1")[-1].state


def test_an_errand_that_fails_twice_in_a_row_is_an_incident_until_the_next_one_succeeds(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    (first,) = bench.lxd.snapshots("client-x")
    assert maintain(bench, "snapshot client-x", ("snapshot",)) == "failed"
    assert look(bench) == []
    assert maintain(bench, f"prune client-x {first.name}") == "succeeded"
    assert maintain(bench, "snapshot client-y", ("snapshot",)) == "failed"
    assert look(bench) == [], "each of another tenant"
    for times in (2, 3):
        assert maintain(bench, "snapshot client-x", ("snapshot",)) == "failed"
        assert look(bench) == [("client-x", "errand")]
        (incident,) = bench.context.incidents.open()
        assert incident.text == f"`snapshot` has failed {times} times in a row. LXD could not do it: the pool is full."
    assert maintain(bench, "snapshot client-x") == "succeeded"
    assert look(bench) == []
    assert len(heads(bench)) == len(notes(bench)) == 1
    assert maintain(bench, "snapshot client-x", ("snapshot",)) == "failed"
    assert look(bench) == [], "once since then"


def test_a_snapshot_that_is_tried_in_vain_is_no_second_trouble_where_it_is_missing(bench: Bench) -> None:
    bench.context.jobs.declared.setdefault("snapshots", Declared("snapshots", "Take them", 60, lambda _: None))
    for _ in range(2 * 12 + 2):
        maintain(bench, "snapshot client-x", ("snapshot",))
        found = look(bench)
    assert found == [("client-x", "errand"), ("client-y", "snapshot")]


def test_an_errand_that_is_tried_no_more_is_over_after_a_day_but_has_not_recovered(bench: Bench) -> None:
    for _ in range(2):
        maintain(bench, "snapshot client-x", ("snapshot",))
    assert look(bench) == [("client-x", "errand")]
    bench.clock.move(DAY)
    assert ("client-x", "errand") not in look(bench)
    assert notes(bench) == [
        ":large_green_circle: The task has not run for a day, so it is no longer monitored.",
    ]


def test_an_errand_of_a_job_that_is_paused_is_not_over_until_it_is_done(bench: Bench) -> None:
    bench.context.jobs.declared.setdefault("snapshots", Declared("snapshots", "Take them", 60, lambda _: None))
    for tenant in ("client-x", "client-y"):
        for _ in range(2):
            maintain(bench, f"snapshot {tenant}", ("snapshot",))
    bench.clock.move(300)
    assert maintain(bench, "snapshot client-y") == "succeeded"
    assert look(bench) == [("client-x", "errand")]
    bench.context.jobs.pause("snapshots", LEAD.id)
    for _ in range(2):
        bench.clock.move(4 * DAY)
        forget(bench.context)
        assert look(bench) == [("client-x", "errand")]
    desk = make_desk(bench)
    desk.click("incident_retry", bench.context.incidents.open()[0].mark, LEAD)
    bench.finish()
    bench.clock.move(60)
    assert look(bench) == []
    assert notes(bench) == [":large_green_circle: Resolved after 8 days."]


def test_an_errand_that_was_left_half_done_is_told_at_once_and_retried_by_who_may(bench: Bench) -> None:
    """Of an archive, at which no sweep looks, and which nobody else may take in hand before that."""
    desk = make_desk(bench)
    bench.done("delete client-x", OPERATOR)
    assert maintain(bench, "purge client-x", ("stop", "update")) == "needs_attention"
    assert look(bench) == [("client-x", "errand")]
    (incident,) = bench.context.incidents.open()
    bench.clock.move(DAY)
    assert ("client-x", "errand") in look(bench), "it is half done until somebody acts"
    assert "the live tenant is not affected) stopped halfway" in incident.text
    assert "and locks the tenant until a retry succeeds" in incident.text
    desk.click("incident_retry", incident.mark, OPERATOR)
    assert "Only approvers can retry background tasks" in desk.slack.to(OPERATOR.id)[-1]
    desk.click("incident_retry", incident.mark, LEAD)
    assert "Retrying the bot's own purge of `client-x`" in desk.slack.to(LEAD.id)[-1]
    assert ("client-x", "errand") in look(bench), "it is not over while it waits"
    bench.finish()
    assert ("client-x", "errand") not in look(bench)
    assert ":large_green_circle: Resolved after 24 h." in notes(bench)
    desk.click("incident_retry", incident.mark, LEAD)
    assert "is failing any more" in desk.slack.to(LEAD.id)[-1]


def test_a_thousand_tenants_are_asked_for_at_once_and_each_is_looked_at(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, **ROOM_FOR_MANY)
    blueprint = next(one.name for one in bench.lxd.instances())
    for number in range(1000):
        name = f"client-{number}"
        config = as_labels(role="tenant", tenant=name, state="live", domain=f"{name}.mautic.localhost", plan="small")
        bench.lxd.copy(f"{blueprint}/golden", name, config=config, devices={})
        bench.lxd.start(name)
    calls = bench.lxd.calls["full_instances"]
    health(bench.context)
    assert len(metrics.latest(bench.context.database, bench.clock())) == 1000
    assert bench.lxd.calls["full_instances"] == calls + 1
