"""After a gap in the checks, what is late only because of the gap is not reported, and everything else is.

In a gap the bot was away.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules import health as sweep
from schedules.snapshots import snapshots
from tests.support.bot import Bench, make_bench
from tests.support.sweep import look, look_for_an_hour

HOUR = 3600
TENANTS = ("client-x", "client-y")


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


@pytest.mark.parametrize("hours", [2.5, 72])
def test_nothing_is_reported_that_only_waited(bench: Bench, hours: float) -> None:
    away(bench, hours * HOUR)
    assert look(bench, after=10) == []
    for _ in range(26 * 6):
        take_snapshots(bench)
        bench.clock.move(240)
        assert look(bench) == []
    assert bench.slack.said == []


def test_snapshots_that_are_still_missing_after_the_gap_are_reported(bench: Bench) -> None:
    away(bench, 4 * HOUR)
    assert look(bench) == []
    for _ in range(2):
        look_for_an_hour(bench)
    assert look(bench) == [(name, "snapshot") for name in TENANTS]


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
