"""Jobs: found by looking, recorded, paused, run by hand, and never twice at once."""

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
from tests.support.bot import Bench, make_bench, until

DECLARE = "from bot.engine.scheduler import schedule\n\n@schedule(seconds=60)\ndef job(context):\n    '''Do it.'''\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Makes a package of the given files."""
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
    """A scheduler of the given jobs alone."""
    context = replace(bench.context, jobs=Jobs(bench.context.database, jobs, bench.clock))
    return Scheduler(context)


def job(run: Callable[[Any], None], seconds: float = 3600) -> Declared:
    return Declared("count", "Count", seconds, run)


def test_the_jobs_are_the_files_and_say_what_they_do(bench: Bench) -> None:
    found = discover(schedules)
    files = Path(schedules.__path__[0]).glob("[a-z]*.py")
    assert [one.name for one in found] == sorted(file.stem.replace("_", "-") for file in files)
    assert all(one.summary and one.seconds > 0 for one in found)
    assert [one.name for one in bench.context.jobs.all()] == [one.name for one in found]


def test_a_file_that_declares_no_job_or_two_is_refused_at_the_start(package: Callable[..., ModuleType]) -> None:
    made = package(two=DECLARE + DECLARE.replace("def job", "def other"))
    with pytest.raises(RuntimeError, match=r"own_jobs\.two has to declare one job; it declares 2"):
        discover(made)


def test_two_files_of_one_name_are_refused_at_the_start(package: Callable[..., ModuleType]) -> None:
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


def test_a_paused_job_runs_only_when_it_is_asked_for(bench: Bench) -> None:
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


def test_a_run_that_the_end_of_the_process_cut_is_said_to_be_cut(bench: Bench) -> None:
    scheduler = scheduled(bench, job(lambda context: None))
    scheduler.jobs.begin("count")
    assert only(scheduler).running
    scheduler.jobs.recover()
    assert (only(scheduler).running, only(scheduler).outcome) == (False, "Interrupted when the bot stopped.")


def test_a_job_ails_that_is_paused_failed_hangs_or_does_not_run(bench: Bench) -> None:
    declared = job(lambda context: None)
    scheduler = scheduled(bench, declared)
    jobs = scheduler.jobs

    def trouble() -> list[str]:
        return [one.problem for one in jobs.failing_jobs()]

    assert trouble() == [], "it was never to run yet"
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
    assert trouble() == ["failed: LXD does not answer"], "also while it is tried again"
    jobs.end("count", "done")
    assert trouble() == []
    jobs.pause("count", "U0OPERATOR")
    bench.clock.move(86_400)
    assert trouble() == ["is paused"]


def test_no_job_ails_for_the_time_that_the_bot_was_away_nor_for_being_cut_then(bench: Bench) -> None:
    scheduler = scheduled(bench, job(lambda context: None))
    scheduler.jobs.begin("count")
    bench.clock.move(3 * 86_400)
    scheduler.jobs.recover()
    assert scheduler.jobs.failing_jobs() == []
    bench.clock.move(3600 + LATE + 1)
    assert [one.problem for one in scheduler.jobs.failing_jobs()] == ["is not running"]


def test_a_clock_that_was_set_back_makes_no_job_wait_longer_than_its_interval(bench: Bench) -> None:
    declared = job(lambda context: None)
    scheduler = scheduled(bench, declared)
    scheduler.run(declared)
    bench.clock.move(-86_400)
    assert only(scheduler).next == bench.clock() + 3600


def test_it_runs_what_is_due_at_once_and_what_is_asked_for_but_never_twice_at_once(bench: Bench) -> None:
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
    # Asked for while it runs: by name it is refused, and by a race it runs after, not beside.
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


def test_a_job_is_due_at_the_start_only_when_its_time_has_come(bench: Bench) -> None:
    runs: list[int] = []
    declared = job(lambda context: runs.append(1), seconds=3600)
    scheduler = scheduled(bench, declared)
    scheduler.run(declared)
    bench.clock.move(60)
    scheduler.start()
    scheduler.stop()
    assert runs == [1]


def test_a_paused_job_that_is_asked_for_in_a_race_runs_all_the_same(bench: Bench) -> None:
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


def test_a_stop_does_not_wait_for_a_run_that_hangs(bench: Bench) -> None:
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
    # Who asks for it now is not told of an error of ours.
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
def test_the_jobs_go_on_when_the_clock_is_set(bench: Bench, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
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
    # Set ahead, it may have been due by the clock and then run by the watch.
    assert len(seldom) <= 3


def test_a_job_that_reads_what_the_settings_name_runs_at_each_start(bench: Bench) -> None:
    ran: list[str] = []

    def declared(name: str, *, at_start: bool) -> Declared:
        return Declared(name, name, 3600, lambda context: ran.append(name), at_start)

    for start in (1, 2):
        scheduler = scheduled(bench, declared("often", at_start=True), declared("seldom", at_start=False))
        scheduler.start()
        until(lambda start=start: ran.count("often") == start and "seldom" in ran)  # type: ignore[misc]
        scheduler.stop()
    assert ran.count("seldom") == 1


def test_a_clock_set_years_ahead_makes_one_run_due() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Every(10).get_next_fire_time(datetime(1970, 1, 1, tzinfo=UTC), now) == now + timedelta(seconds=10)
