"""The sweep: finds each problem in one run, ignores blips, reports a host's problem once, and delays no tenant."""

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
from tests.support.sweep import heads, look, look_for_an_hour


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


def test_a_healthy_fleet_is_measured_and_nothing_is_posted(bench: Bench) -> None:
    # A first check may leave something in a tenant, which would change how full the pool is.
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
def test_a_sick_tenant_is_found_in_one_sweep_and_its_recovery_posted_once(
    bench: Bench, sick: dict[str, Any], kind: str
) -> None:
    look_for_an_hour(bench)
    change(bench.lxd, "client-x", **sick)
    for _ in range(2):
        assert look(bench) == [("client-x", kind)]
    change(bench.lxd, "client-x", stopped=[], crons_ended=0, queue_age=0, log_errors=0)
    for _ in range(2):
        assert look(bench) == []
    assert len(heads(bench)) == 1
    assert notes(bench) == [":large_green_circle: Resolved after 10 min."]


def test_a_tenant_that_takes_the_address_of_another_is_found_and_the_other_is_not(bench: Bench) -> None:
    bench.lxd.claim("client-x", given(bench.lxd.instance("client-y")))
    assert look(bench) == [("client-x", "address")]
    bench.lxd.restart("client-x")
    assert look(bench) == []


def test_a_tenant_that_was_given_the_address_of_another_is_found(bench: Bench) -> None:
    bench.lxd.update("client-x", {}, {NIC: bench.lxd.instance("blueprint--5-2-12-double").devices[NIC]})
    assert ("client-x", "address") in look(bench)


def test_a_full_disk_is_found(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    bench.done("new client-x")
    bench.lxd.fill("client-x", 26 << 30)
    bench.lxd.snapshot("client-x", "all-of-it")
    assert bench.lxd.state("client-x").disk < 1 << 20, "LXD counts only bytes that no snapshot shares"
    bench.clock.move(60)
    assert look(bench) == [("client-x", "disk")]


def test_a_container_that_stopped_by_itself_is_found_and_a_stopped_tenant_is_not(bench: Bench) -> None:
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


def test_a_sick_tenant_that_is_suspended_or_stopped_is_not_reported_as_recovered(bench: Bench) -> None:
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


def test_a_suspended_tenant_has_no_problem(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    bench.clock.move(60)
    assert look(bench) == []


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_tenant_with_a_queued_or_running_operation_is_not_judged(bench: Bench, state: str) -> None:
    operation = bench.approve(bench.ask("delete client-x", OPERATOR))
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET state = ? WHERE id = ?", (state, operation.id))
    bench.lxd.stop("client-x")
    assert look(bench) == []


def left_half_done(bench: Bench, text: str) -> None:
    operation = bench.approve(bench.ask(text, OPERATOR))
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET state = 'needs_attention' WHERE id = ?", (operation.id,))


def test_a_live_tenant_is_checked_in_spite_of_an_unfinished_operation(bench: Bench) -> None:
    """What needs attention locks the tenant until somebody acts, which may take long."""
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
def test_the_incidents_of_a_half_moved_tenant_stay_as_they_are(
    bench: Bench, stamped: dict[str, str], more: list[tuple[str, str]]
) -> None:
    """It is closed for its candidate, or was retired for one that is not the tenant yet."""
    change(bench.lxd, "client-x", log_errors=30)
    assert look(bench) == [("client-x", "log")]
    left_half_done(bench, "stop client-x")
    bench.lxd.update("client-x", stamped)
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "log"), *more]


def test_a_halted_move_is_an_incident_until_it_is_undone(bench: Bench) -> None:
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


def test_the_incident_of_a_move_without_an_operation_names_the_start_command(bench: Bench) -> None:
    bench.lxd.update("client-x", as_labels(state="moving"))
    assert look(bench) == [("client-x", "move")]
    assert "`/mautic start client-x` brings the site online" in bench.context.incidents.open()[0].text


def test_a_tenant_whose_request_awaits_approval_is_checked(bench: Bench) -> None:
    bench.ask("delete client-x", OPERATOR)
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "stopped")]


def test_what_an_operation_does_during_the_sweep_is_no_problem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check sees the tenant before an operation that is over before the sweep is."""
    seen = health_checks.at_tenants

    def meanwhile(*arguments: Any, **known: Any) -> Any:
        found = seen(*arguments, **known)
        bench.done("restart client-x", OPERATOR)
        return found

    monkeypatch.setattr(health_checks, "at_tenants", meanwhile)
    change(bench.lxd, "client-x", stopped=["cron"])
    assert look(bench) == []


def test_an_operation_that_a_wrong_clock_dated_ahead_hides_no_problem(bench: Bench) -> None:
    bench.clock.move(400 * DAY)
    bench.done("snapshot client-x", OPERATOR)
    bench.clock.move(-400 * DAY)
    bench.lxd.stop("client-x")
    assert look(bench) == [("client-x", "stopped")]


def test_a_blip_is_ignored_and_a_lasting_problem_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    change(bench.lxd, "client-x", stopped=["nginx"])
    change(bench.lxd, "client-y", stopped=["nginx"])
    monkeypatch.setattr(sweep.time, "sleep", lambda _: change(bench.lxd, "client-x", stopped=[]))
    assert look(bench) == [("client-y", "web")]


def test_a_problem_that_is_new_at_the_second_look_is_not_reported_yet(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_few_tenants_that_stop_together_are_reported_immediately(bench: Bench) -> None:
    for name in ("client-x", "client-y"):
        bench.lxd.stop(name)
    assert look(bench) == [("client-x", "stopped"), ("client-y", "stopped")]


def test_a_host_that_was_off_gets_time_to_start_its_tenants(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """LXD starts them one after the other. If the bot runs on that host, nobody saw that it was off."""
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
    assert look(bench) == [("client-x", "stopped"), ("client-y", "stopped")], "its time is over"


def test_a_server_that_was_silent_gets_time_to_start_its_tenants(bench: Bench) -> None:
    silent = LxdUnavailable("LXD does not answer.")
    bench.lxd.fail_next("full_instances", silent)
    bench.lxd.fail_next("instances", silent)
    assert look(bench) == [("local", "server")]
    bench.lxd.stop("client-x")
    change(bench.lxd, "client-y", stopped=["nginx"], log_errors=30)
    for _ in range(4):
        assert look(bench) == [("client-y", "log")], "no start explains errors in the log"
    assert look(bench) == [("client-y", "log"), ("client-x", "stopped"), ("client-y", "web")]


@pytest.fixture
def cluster(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, members=("node1", "node2", "node3"), MAUTIC_OPS_SLACK__CHANNEL="C0OPS")


def test_the_incident_of_a_removed_member_is_closed(cluster: Bench) -> None:
    cluster.lxd.set_online("node3", False)
    assert look(cluster) == [("node3", "server")]
    cluster.lxd.world.members.remove("node3")
    cluster.lxd.fail_next("members", LxdUnavailable("LXD does not answer."))
    assert look(cluster) == [("node3", "server")], "LXD has not said yet that it is gone"
    assert look(cluster) == []
    assert notes(cluster) == [":large_green_circle: Resolved: the server no longer exists."]


def test_a_member_whose_pool_cannot_be_read_does_not_affect_the_others(
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


def test_if_no_page_answers_the_edge_is_the_problem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = type(bench.context.edge.probe("client-x.mautic.localhost"))
    monkeypatch.setattr(bench.context.edge, "probe", lambda *_: probe(0, False, "ConnectionRefusedError"))
    assert look(bench) == [("the edge", "edge")]
    (incident,) = bench.context.incidents.open()
    assert incident.text.endswith("`/mautic doctor` checks the edge, and restarts it.")
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    assert look(bench) == []


def test_a_host_may_have_the_name_of_the_edge(tmp_path: Path) -> None:
    named = SimulatedLxd()
    bench = make_bench(tmp_path, others={"edge": named})

    def silent(*_: Any) -> None:
        raise LxdUnavailable("LXD does not answer.")

    named.on_call = silent
    assert look(bench) == [("edge", "server")]


def test_an_edge_that_is_back_at_the_second_look_is_no_problem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = bench.context.edge.probe
    refused = type(probe("client-x.mautic.localhost"))(0, False, "ConnectionRefusedError")
    monkeypatch.setattr(bench.context.edge, "probe", lambda *_: refused)
    monkeypatch.setattr(sweep.time, "sleep", lambda _: monkeypatch.setattr(bench.context.edge, "probe", probe))
    assert look(bench) == []


def test_if_some_pages_answer_the_edge_is_not_the_problem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.done("new client-z")
    bench.clock.move(60)
    probe = bench.context.edge.probe
    refused = type(probe("client-x.mautic.localhost"))(0, False, "ConnectionRefusedError")
    monkeypatch.setattr(
        bench.context.edge, "probe", lambda domain, *_: probe(domain) if domain.startswith("client-z") else refused
    )
    assert look(bench) == [("client-x", "page"), ("client-y", "page")]


def test_the_incidents_of_a_deleted_tenant_are_closed(bench: Bench) -> None:
    change(bench.lxd, "client-x", log_errors=30)
    look(bench)
    bench.done("delete client-x", OPERATOR)
    bench.clock.move(60)
    assert look(bench) == []
    assert notes(bench)[-1] == ":large_green_circle: Resolved: the tenant no longer exists."


def test_a_tenant_that_hangs_delays_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """An executor that gets to its first job, and to no other before time is up."""

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


def test_tenants_that_a_sweep_did_not_reach_come_first_in_the_next(
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


def test_a_tenant_that_does_not_report_its_health_is_found(bench: Bench) -> None:
    bench.lxd.fail_next("execute", LxdUnavailable("LXD gave up after 20 s."), times=4)
    assert look(bench) == [("client-x", "inside"), ("client-y", "inside")]
    assert look(bench) == []


def test_missing_snapshots_are_reported_unless_their_job_is_paused(bench: Bench) -> None:
    bench.context.jobs.declared.setdefault("snapshots", Declared("snapshots", "Take them", 60, lambda _: None))
    for _ in range(2 * 12):
        assert look(bench) == []
    for _ in range(2):
        found = look(bench)
    assert found == [("client-x", "snapshot"), ("client-y", "snapshot")]
    bench.context.jobs.pause("snapshots", LEAD.id)
    assert look(bench) == []


def test_snapshots_in_the_retired_container_count_for_a_restored_tenant(bench: Bench) -> None:
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


def test_restart_and_logs_run_as_the_person_who_pressed_the_button(bench: Bench) -> None:
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
    """Run a command as maintenance while these LXD calls fail; return the state that it ends in."""
    for call in fails:
        bench.lxd.fail_next(call, LxdError("LXD could not do it: the pool is full."))
    Maintenance(bench.context).ask(text.split()[0], bench.answer(text))
    bench.finish()
    return bench.context.operations.select("1 = 1")[-1].state


def test_maintenance_that_fails_twice_in_a_row_is_an_incident_until_it_succeeds(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    (first,) = bench.lxd.snapshots("client-x")
    assert maintain(bench, "snapshot client-x", ("snapshot",)) == "failed"
    assert look(bench) == []
    assert maintain(bench, f"prune client-x {first.name}") == "succeeded"
    assert maintain(bench, "snapshot client-y", ("snapshot",)) == "failed"
    assert look(bench) == [], "each failure concerns another tenant"
    for times in (2, 3):
        assert maintain(bench, "snapshot client-x", ("snapshot",)) == "failed"
        assert look(bench) == [("client-x", "errand")]
        (incident,) = bench.context.incidents.open()
        assert incident.text == f"`snapshot` has failed {times} times in a row. LXD could not do it: the pool is full."
    assert maintain(bench, "snapshot client-x") == "succeeded"
    assert look(bench) == []
    assert len(heads(bench)) == len(notes(bench)) == 1
    assert maintain(bench, "snapshot client-x", ("snapshot",)) == "failed"
    assert look(bench) == [], "it has failed only once since then"


def test_a_snapshot_that_fails_is_not_also_reported_as_missing(bench: Bench) -> None:
    bench.context.jobs.declared.setdefault("snapshots", Declared("snapshots", "Take them", 60, lambda _: None))
    for _ in range(2 * 12 + 2):
        maintain(bench, "snapshot client-x", ("snapshot",))
        found = look(bench)
    assert found == [("client-x", "errand"), ("client-y", "snapshot")]


def test_failed_maintenance_that_no_longer_runs_is_closed_after_a_day_but_not_as_resolved(bench: Bench) -> None:
    for _ in range(2):
        maintain(bench, "snapshot client-x", ("snapshot",))
    for _ in range(DAY // 900):
        assert ("client-x", "errand") in look(bench, after=900)
    assert ("client-x", "errand") not in look(bench, after=900)
    assert notes(bench) == [
        ":large_green_circle: The task has not run for a day, so it is no longer monitored.",
    ]


def test_failed_maintenance_of_a_paused_job_stays_open_until_it_succeeds(bench: Bench) -> None:
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


def test_unfinished_maintenance_is_reported_immediately_and_only_approvers_retry_it(bench: Bench) -> None:
    """It concerns an archive, which no sweep checks, and which stays locked until then."""
    desk = make_desk(bench)
    bench.done("delete client-x", OPERATOR)
    assert maintain(bench, "purge client-x", ("stop", "update")) == "needs_attention"
    assert look(bench) == [("client-x", "errand")]
    (incident,) = bench.context.incidents.open()
    bench.clock.move(DAY)
    assert ("client-x", "errand") in look(bench), "it is unfinished until somebody acts"
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


def test_a_thousand_tenants_are_read_in_one_request_and_each_is_checked(tmp_path: Path) -> None:
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
