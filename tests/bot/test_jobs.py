"""Jobs: discovered in files, recorded, paused, run on request, and never run twice in parallel."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import schedules
from bot.engine.scheduler import Every, Scheduler, discover
from bot.lxd.protocol import LxdUnavailable
from bot.store.jobs import LATE, Declared, Job, Jobs
from tests.support.bot import Bench, Clock, make_bench, until

DECLARE = "from bot.engine.scheduler import schedule\n\n@schedule(seconds=60)\ndef job(context):\n    '''Do it.'''\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Return a function that creates a package of the given files."""
    folder = tmp_path / "own_jobs"

    def make(**files: str) -> ModuleType:
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        return __import__("own_jobs")

    yield make
    for name in [one for one in sys.modules if one.partition(".")[0] == "own_jobs"]:
        del sys.modules[name]


def scheduled(bench: Bench, *jobs: Declared) -> Scheduler:
    """Return a scheduler of the given jobs only."""
    context = replace(bench.context, jobs=Jobs(bench.context.database, jobs, bench.clock, bench.clock.elapsed))
    return Scheduler(context)


def job(run: Callable[[Any], None], seconds: float = 3600) -> Declared:
    return Declared("count", "Count", seconds, run)


def test_each_file_in_schedules_is_one_job_with_a_summary(bench: Bench) -> None:
    found = discover(schedules)
    files = Path(schedules.__path__[0]).glob("[a-z]*.py")
    assert [one.name for one in found] == sorted(file.stem.replace("_", "-") for file in files)
    assert all(one.summary and one.seconds > 0 for one in found)
    assert [one.name for one in bench.context.jobs.all()] == [one.name for one in found]


def test_a_file_that_declares_two_jobs_is_refused_at_the_start(package: Callable[..., ModuleType]) -> None:
    made = package(two=DECLARE + DECLARE.replace("def job", "def other"))
    with pytest.raises(RuntimeError, match=r"own_jobs\.two has to declare one job; it declares 2"):
        discover(made)


def test_two_files_with_the_same_job_name_are_refused_at_the_start(package: Callable[..., ModuleType]) -> None:
    with pytest.raises(RuntimeError, match="declare the job import"):
        discover(package(import_=DECLARE, **{"import": DECLARE}))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def only(scheduler: Scheduler) -> Job:
    (found,) = scheduler.jobs.all()
    return found


def test_a_run_is_recorded_with_its_start_end_and_outcome(bench: Bench) -> None:
    declared = job(lambda context: bench.clock.move(5))
    scheduler = scheduled(bench, declared)
    assert (only(scheduler).started, only(scheduler).next) == (None, bench.clock())
    began = bench.clock()
    scheduler.run(declared)
    ran = only(scheduler)
    assert (ran.started, ran.finished, ran.outcome, ran.next) == (began, began + 5, "done", began + 3600)


@pytest.mark.parametrize("error", [ValueError("secret"), LxdUnavailable("LXD does not answer.")])
def test_a_job_that_raises_is_recorded_and_runs_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    errors = [error]

    def run(context: object) -> None:
        if errors:
            raise errors.pop()

    declared = job(run)
    scheduler = scheduled(bench, declared)
    scheduler.run(declared)
    ran = only(scheduler)
    assert ran.finished
    if isinstance(error, LxdUnavailable):
        assert (ran.outcome, ran.error_id) == ("LXD does not answer.", "")
    else:
        assert ran.error_id
        assert ran.error_id in ran.outcome
        assert "secret" not in ran.outcome
        assert f"error {ran.error_id} while running the job count" in caplog.text
    scheduler.run(declared)
    assert (only(scheduler).outcome, only(scheduler).error_id) == ("done", "")


def test_a_paused_job_runs_only_on_request(bench: Bench) -> None:
    runs: list[int] = []
    declared = job(lambda context: runs.append(1))
    scheduler = scheduled(bench, declared)
    scheduler.jobs.pause("count", "U0OPERATOR")
    scheduler.run(declared)
    assert runs == []
    scheduler.run(declared, asked=True)
    assert runs == [1]
    assert only(scheduler).paused_by == "U0OPERATOR"
    scheduler.jobs.resume("count", "U0OPERATOR")
    scheduler.run(declared)
    assert runs == [1, 1]


def test_a_run_that_was_cut_off_when_the_bot_stopped_is_recorded_as_interrupted(bench: Bench) -> None:
    scheduler = scheduled(bench, job(lambda context: None))
    scheduler.jobs.begin("count")
    assert only(scheduler).running
    scheduler.jobs.recover()
    assert (only(scheduler).running, only(scheduler).outcome) == (False, "Interrupted when the bot stopped.")


def test_a_job_that_is_paused_failed_hangs_or_is_overdue_has_a_problem(bench: Bench) -> None:
    declared = job(lambda context: None)
    scheduler = scheduled(bench, declared)
    jobs = scheduler.jobs

    def trouble() -> list[str]:
        return [one.problem for one in jobs.failing_jobs()]

    assert trouble() == [], "no run was due yet"
    scheduler.run(declared)
    bench.clock.move(3600 + LATE)
    assert trouble() == []
    bench.clock.move(1)
    assert trouble() == ["is not running"]
    jobs.begin("count")
    assert trouble() == []
    bench.clock.move(3600 + LATE + 1)
    assert trouble() == ["hangs"]
    jobs.end("count", "LXD does not answer.")
    jobs.begin("count")
    assert trouble() == ["failed: LXD does not answer"], "the failure is still shown while the job is retried"
    jobs.end("count", "done")
    assert trouble() == []
    jobs.pause("count", "U0OPERATOR")
    bench.clock.move(86_400)
    assert trouble() == ["is paused"]


def test_a_job_has_no_problem_only_because_the_bot_was_down(bench: Bench) -> None:
    scheduler = scheduled(bench, job(lambda context: None))
    scheduler.jobs.begin("count")
    bench.clock.move(3 * 86_400)
    scheduler.jobs.recover()
    assert scheduler.jobs.failing_jobs() == []
    bench.clock.move(3600 + LATE + 1)
    assert [one.problem for one in scheduler.jobs.failing_jobs()] == ["is not running"]


@pytest.mark.parametrize("leave", [Clock.suspend, Clock.set], ids=["suspended", "clock set"])
@pytest.mark.parametrize("runs", [False, True])
def test_a_job_has_no_problem_only_because_the_machine_was_suspended_or_its_clock_set(
    bench: Bench, leave: Callable[[Clock, float], None], runs: bool
) -> None:
    jobs = scheduled(bench, job(lambda context: None)).jobs
    jobs.recover()
    jobs.begin("count")
    if not runs:
        jobs.end("count", "done")
    leave(bench.clock, 3 * 86_400)
    assert jobs.failing_jobs() == [], "it runs within seconds"
    bench.clock.move(3600 + LATE + 1)
    assert [one.problem for one in jobs.failing_jobs()] == ["hangs" if runs else "is not running"]


def test_after_the_clock_is_set_back_no_job_waits_longer_than_its_interval(bench: Bench) -> None:
    declared = job(lambda context: None)
    scheduler = scheduled(bench, declared)
    scheduler.run(declared)
    bench.clock.move(-86_400)
    assert only(scheduler).next == bench.clock() + 3600


def test_due_and_requested_jobs_run_at_once_but_never_twice_in_parallel(bench: Bench) -> None:
    go_on = threading.Semaphore(0)
    inside: list[int] = []
    most: list[int] = []

    def run(context: object) -> None:
        inside.append(1)
        most.append(len(inside))
        go_on.acquire()
        inside.pop()

    scheduler = scheduled(bench, job(run))
    scheduler.start()
    until(lambda: len(most) == 1)
    # `ask` refuses a job that is running; after a race between both (`wake`) the job runs once more afterwards.
    scheduler.jobs.wake("count")
    go_on.release()
    until(lambda: len(most) == 2)
    go_on.release()
    until(lambda: not only(scheduler).running)
    scheduler.jobs.ask("count", "U0OPERATOR")
    until(lambda: len(most) == 3)
    go_on.release()
    scheduler.stop()
    assert most == [1, 1, 1]
    assert not only(scheduler).running


def test_a_job_that_is_not_due_does_not_run_when_the_bot_starts(bench: Bench) -> None:
    runs: list[int] = []
    due = threading.Event()
    declared = job(lambda context: runs.append(1), seconds=3600)
    scheduler = scheduled(bench, declared, Declared("due", "Shows that jobs run", 3600, lambda context: due.set()))
    scheduler.run(declared)
    bench.clock.move(60)
    scheduler.start()
    assert due.wait(30)
    scheduler.stop()
    assert runs == [1]


def test_a_job_that_is_paused_and_requested_during_a_run_runs_once_more(bench: Bench) -> None:
    go_on = threading.Semaphore(0)
    runs: list[int] = []

    def run(context: object) -> None:
        runs.append(1)
        go_on.acquire()

    scheduler = scheduled(bench, job(run))
    scheduler.start()
    until(lambda: len(runs) == 1)
    scheduler.jobs.pause("count", "U0OPERATOR")
    scheduler.jobs.wake("count")
    go_on.release()
    until(lambda: len(runs) == 2)
    go_on.release()
    scheduler.stop()
    assert len(runs) == 2


def test_stopping_does_not_wait_for_a_run_that_hangs(bench: Bench) -> None:
    go_on, inside = threading.Event(), threading.Event()

    def run(context: object) -> None:
        inside.set()
        go_on.wait()

    scheduler = scheduled(bench, job(run))
    scheduler.start()
    assert inside.wait(30)
    began = time.monotonic()
    scheduler.stop(timeout=0.1)
    assert time.monotonic() - began < 5
    assert only(scheduler).running
    # A request for the job raises no error while the bot is stopping.
    scheduler.jobs.wake("count")
    go_on.set()
    until(lambda: not only(scheduler).running)


class Wall(datetime):
    """A wall clock that can be set."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return super().now(tz) + cls.ahead


@pytest.mark.parametrize("days", [-1, 1], ids=["back", "forth"])
def test_jobs_keep_running_after_the_clock_is_set(bench: Bench, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    monkeypatch.setattr(Wall, "ahead", timedelta())
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", Wall)
    monkeypatch.setattr("bot.engine.scheduler.datetime", Wall)
    monkeypatch.setattr("bot.engine.scheduler.WATCH", 0.05)
    often: list[int] = []
    seldom: list[int] = []
    scheduler = scheduled(
        bench,
        Declared("often", "Often", 0.05, lambda context: often.append(1)),
        Declared("seldom", "Seldom", 3600, lambda context: seldom.append(1)),
    )
    scheduler.start()
    until(lambda: len(often) > 2 and len(seldom) == 1)
    Wall.ahead = timedelta(days=days)
    until(lambda: len(seldom) >= 2)
    before = len(often)
    until(lambda: len(often) > before + 2)
    scheduler.stop()
    # With the clock set ahead, the job may run twice: because it is due by the clock, and because of the watch.
    assert len(seldom) <= 3


def test_a_job_declared_with_at_start_runs_at_every_start(bench: Bench) -> None:
    ran: list[str] = []

    def declared(name: str, *, at_start: bool) -> Declared:
        return Declared(name, name, 3600, lambda context: ran.append(name), at_start)

    for start in (1, 2):
        scheduler = scheduled(bench, declared("often", at_start=True), declared("seldom", at_start=False))
        scheduler.start()
        until(lambda start=start: ran.count("often") == start and "seldom" in ran)  # type: ignore[misc]
        scheduler.stop()
    assert ran.count("seldom") == 1


def test_a_clock_set_years_ahead_makes_only_one_run_due() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Every(10).get_next_fire_time(datetime(1970, 1, 1, tzinfo=UTC), now) == now + timedelta(seconds=10)
