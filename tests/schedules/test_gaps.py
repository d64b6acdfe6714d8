"""After a gap in the checks, what is late only because of the gap is not reported, and everything else is.

In a gap the bot was away, the machine was suspended, or its clock was set.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bot.engine.maintenance import Maintenance
from bot.engine.scheduler import Scheduler
from bot.guest.simulated import change
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.store.jobs import LATE
from schedules import health as sweep
from schedules.snapshots import snapshots
from tests.support.bot import LEAD, Bench, add_blueprint, make_bench
from tests.support.judge import mrkdwn
from tests.support.simulated_lxd import SimulatedLxd
from tests.support.sweep import look, look_for_an_hour

HOUR = 3600
OVERDUE = [({"crons_ended": 1.0}, "jobs"), ({"queue_age": 9000}, "queue"), ({"overdue": "3 imports"}, "work")]
"""Changes of a tenant that make something late, and the finding."""
TENANTS = ("client-x", "client-y")
OTHER = "client-z"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "AGAIN", 0.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bot that has looked at its tenants for an hour, and whose snapshots are up to date."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.lxd.clock = bench.clock
    for name in TENANTS:
        assert bench.done(f"new {name}").state == "succeeded"
    take_snapshots(bench)
    look_for_an_hour(bench)
    take_snapshots(bench)
    bench.slack.said.clear()
    return bench


def take_snapshots(bench: Bench) -> None:
    """Take the snapshots that are due; the next sweep does not judge a tenant whose operation ended just now."""
    snapshots(bench.context)
    bench.finish()
    bench.clock.move(60)


def away(bench: Bench, seconds: float) -> None:
    """Let the bot be away while its tenants run."""
    bench.clock.move(seconds)


def suspended(bench: Bench, seconds: float) -> None:
    """Suspend the machine, with the bot and all tenants."""
    began = bench.clock()
    bench.clock.suspend(seconds)
    sleep(bench.lxd, began, bench.clock())


def set_forward(bench: Bench, seconds: float) -> None:
    """Set the machine's clock."""
    began = bench.clock()
    bench.clock.set(seconds)
    sleep(bench.lxd, began, bench.clock())


def sleep(lxd: SimulatedLxd, began: float, ended: float) -> None:
    for one in lxd.instances():
        if one.running:
            change(lxd, one.name, slept=(began, ended))


GAPS = {
    "away for 2.5 hours": (away, 2.5 * HOUR),
    "away for 3 days": (away, 72 * HOUR),
    "suspended for 4 hours": (suspended, 4 * HOUR),
    "suspended for 3 days": (suspended, 72 * HOUR),
    "clock set by 18 minutes": (set_forward, 18 * 60),
    "clock set by 3 days": (set_forward, 72 * HOUR),
}
every_gap = pytest.mark.parametrize("gap", GAPS)


def pass_over(bench: Bench, gap: str) -> None:
    leave, seconds = GAPS[gap]
    leave(bench, seconds)


@every_gap
def test_nothing_is_reported_that_only_waited(bench: Bench, gap: str) -> None:
    pass_over(bench, gap)
    assert look(bench, after=10) == [], "the watch of the clock runs every job at once"
    for _ in range(26 * 6):
        take_snapshots(bench)
        bench.clock.move(240)
        assert look(bench) == []
    assert bench.slack.said == []


def test_status_says_that_it_does_not_know_yet(bench: Bench) -> None:
    suspended(bench, 4 * HOUR)
    bench.clock.move(10)
    shown = "\n".join(mrkdwn(bench.answer("status client-x").blocks))
    assert ":grey_question: *Cron jobs:*" in shown
    assert ":x:" not in shown


@pytest.mark.parametrize("during", ["full_instances", "execute"])
def test_nothing_is_reported_if_the_machine_is_suspended_in_the_middle_of_a_sweep(bench: Bench, during: str) -> None:
    def suspend(method: str, _: object) -> None:
        if method == during:
            bench.lxd.on_call = None
            suspended(bench, 4 * HOUR)

    bench.lxd.on_call = suspend
    assert look(bench) == []
    assert bench.lxd.on_call is None, "it was suspended"
    assert look(bench, after=10) == []
    assert bench.slack.said == []


@every_gap
@pytest.mark.parametrize(("sick", "kind"), OVERDUE)
def test_what_does_not_recover_after_the_gap_is_reported_within_the_hour(
    bench: Bench, gap: str, sick: dict[str, Any], kind: str
) -> None:
    pass_over(bench, gap)
    change(bench.lxd, "client-x", **sick)
    assert look(bench) == []
    take_snapshots(bench)
    look_for_an_hour(bench)
    take_snapshots(bench)
    assert look(bench) == [("client-x", kind)]


def test_snapshots_that_are_still_missing_after_the_gap_are_reported(bench: Bench) -> None:
    away(bench, 4 * HOUR)
    assert look(bench) == []
    for _ in range(2):
        look_for_an_hour(bench)
    assert look(bench) == [(name, "snapshot") for name in TENANTS]


@every_gap
@pytest.mark.parametrize(("sick", "kind"), [({"stopped": ["nginx"]}, "web"), ({"log_errors": 30}, "log")])
def test_what_no_gap_explains_is_reported_at_once(bench: Bench, gap: str, sick: dict[str, Any], kind: str) -> None:
    pass_over(bench, gap)
    change(bench.lxd, "client-x", **sick)
    assert look(bench) == [("client-x", kind)]


@every_gap
@pytest.mark.parametrize(("sick", "kind"), OVERDUE)
def test_an_open_incident_stays_open_over_the_gap_until_the_problem_is_solved(
    bench: Bench, gap: str, sick: dict[str, Any], kind: str
) -> None:
    change(bench.lxd, "client-x", **sick)
    assert look(bench) == [("client-x", kind)]
    pass_over(bench, gap)
    assert look(bench) == [("client-x", kind)]
    take_snapshots(bench)
    look_for_an_hour(bench)
    assert [one.kind for one in bench.context.incidents.open()] == [kind]
    assert [one["method"] for one in bench.slack.said].count("chat.postMessage") == 1, "nothing is posted again"
    change(bench.lxd, "client-x", crons_ended=0, queue_age=0, overdue="", slept=(0, 0))
    assert look(bench) == []


def test_an_open_incident_of_missing_snapshots_stays_open_over_the_gap(bench: Bench) -> None:
    for _ in range(2):
        look_for_an_hour(bench)
    missing = [(name, "snapshot") for name in TENANTS]
    assert look(bench) == missing
    away(bench, 4 * HOUR)
    for _ in range(2):
        assert look(bench) == missing
    take_snapshots(bench)
    assert look(bench) == []


def test_failing_maintenance_is_not_given_up_because_the_bot_was_away(bench: Bench) -> None:
    def fail() -> None:
        bench.lxd.fail_next("snapshot", LxdError("LXD could not do it: the pool is full."))
        Maintenance(bench.context).ask("snapshot", bench.answer("snapshot client-x"))
        bench.finish()

    for _ in range(2):
        fail()
    assert look(bench) == [("client-x", "errand")]
    said = len(bench.slack.said)
    away(bench, 72 * HOUR)
    assert look(bench) == [("client-x", "errand")]
    fail()
    assert look(bench) == [("client-x", "errand")], "one failure alone would be none"
    assert len(bench.slack.said) == said
    bench.clock.move(900)
    take_snapshots(bench)
    assert look(bench) == []
    assert ":large_green_circle: Resolved after" in str(bench.slack.said[said:])


def run(bench: Bench, job: str) -> None:
    """Run a job as the scheduler does, which records it."""
    Scheduler(bench.context).run(bench.context.jobs.declared[job])


def digests(bench: Bench) -> list[str]:
    return ["\n".join([one["text"], *mrkdwn(one["blocks"])]) for one in bench.slack.said if not one.get("thread_ts")]


@pytest.fixture
def morning(bench: Bench) -> Bench:
    """Return a bot after its digest, at 08:10, and after a sweep."""
    bench.clock.at = datetime(2027, 2, 1, 8, 10, tzinfo=UTC).timestamp()
    run(bench, "health")
    take_snapshots(bench)
    run(bench, "digest")
    bench.slack.said.clear()
    return bench


@pytest.mark.parametrize("gap", ["away for 3 days", "suspended for 3 days"])
def test_the_digest_after_a_gap_waits_for_the_first_sweep_and_reports_nothing_that_only_waited(
    morning: Bench, gap: str
) -> None:
    pass_over(morning, gap)
    if gap.startswith("away"):
        morning.context.jobs.recover()
    run(morning, "digest")
    assert digests(morning) == []
    run(morning, "health")
    run(morning, "digest")
    (said,) = digests(morning)
    assert said.startswith("Thursday, 4 February: all healthy")
    assert "Both clients are online. Every host answers. Snapshots that became due while the bot was away are" in said


def test_the_digest_after_a_gap_names_snapshots_that_are_still_missing_after_two_hours(morning: Bench) -> None:
    away(morning, 70 * HOUR)
    for _ in range(26):
        morning.clock.move(300)
        run(morning, "health")
    run(morning, "digest")
    (said,) = digests(morning)
    assert "*No snapshot in the last 25 hours:* client-x (3 days old), client-y (3 days old)" in said


def test_the_digest_after_a_gap_does_not_wait_for_a_server_that_does_not_answer(morning: Bench) -> None:
    away(morning, 72 * HOUR)

    def silent(*_: Any) -> None:
        raise LxdUnavailable("LXD does not answer.")

    morning.lxd.on_call = silent
    run(morning, "health")
    run(morning, "digest")
    assert "local does not answer" in digests(morning)[0]


def test_the_digest_after_a_gap_does_not_wait_for_a_sweep_that_hangs_or_is_paused(morning: Bench) -> None:
    away(morning, 24 * HOUR)
    morning.context.jobs.begin("health")
    morning.clock.move(300 + LATE)
    run(morning, "digest")
    assert digests(morning) == []
    morning.clock.move(1)
    run(morning, "digest")
    assert "*Background job “health”* hangs" in digests(morning)[0]
    morning.context.jobs.end("health", "done")
    morning.context.jobs.pause("health", LEAD.id)
    away(morning, 24 * HOUR)
    run(morning, "digest")
    assert "*Background job “health”* is paused" in digests(morning)[1]


def test_a_server_that_was_suspended_elsewhere_has_a_gap_of_its_own(tmp_path: Path) -> None:
    other = SimulatedLxd()
    add_blueprint(other)
    bench = make_bench(tmp_path, others={"other": other})
    bench.lxd.clock = other.clock = bench.clock
    assert bench.done("new client-x --host local").state == "succeeded"
    assert bench.done(f"new {OTHER} --host other").state == "succeeded"
    look_for_an_hour(bench)
    began = bench.clock()

    def silent(*_: Any) -> None:
        raise LxdUnavailable("LXD does not answer.")

    other.on_call = silent
    for _ in range(12):
        assert look(bench) == [("other", "server")]
    other.on_call = None
    sleep(other, began, bench.clock())
    change(bench.lxd, "client-x", crons_ended=1.0)
    assert look(bench) == [("client-x", "jobs")], "the other host has no gap"
