"""Retention, case by case; `tests/schedules/test_year.py` compares it with a model over a year."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.engine.retention import Point, Retention, spread
from bot.settings import SnapshotSettings

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0


def retention(hourly: int = 0, daily: int = 0, weekly: int = 0, monthly: int = 0, **more: timedelta) -> Retention:
    return Retention(SnapshotSettings(hourly, daily, weekly, monthly), BERLIN, **more)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def points(*texts: str) -> list[Point]:
    return [Point(at(text), text) for text in texts]


def left(rule: Retention, known: list[Point], now: str) -> list[str]:
    gone = rule.surplus(known, at(now))
    return [one.name for one in sorted(known) if one not in gone]


def test_the_newest_snapshot_of_each_of_the_last_spans_is_kept() -> None:
    known = points("2026-05-01 08:00", "2026-05-01 20:00", "2026-05-02 08:00", "2026-05-04 08:00", "2026-05-04 09:00")
    assert left(retention(daily=3), known, "2026-05-04 10:00") == [
        "2026-05-01 20:00",
        "2026-05-02 08:00",
        "2026-05-04 09:00",
    ]
    assert left(retention(weekly=1, monthly=1), known, "2026-05-04 10:00") == ["2026-05-04 09:00"]
    assert left(retention(weekly=2), known, "2026-05-04 10:00") == ["2026-05-02 08:00", "2026-05-04 09:00"]


def test_age_alone_makes_no_snapshot_surplus() -> None:
    known = points("2026-05-01 08:00", "2026-05-02 08:00")
    assert left(retention(daily=2), known, "2031-01-01 00:00") == ["2026-05-01 08:00", "2026-05-02 08:00"]


def test_without_tiers_no_snapshot_is_removed() -> None:
    known = points("2026-05-01 08:00", "2026-05-01 09:00")
    assert left(retention(), known, "2026-05-01 10:00") == ["2026-05-01 08:00", "2026-05-01 09:00"]


def test_snapshots_that_a_wrong_clock_dated_into_the_future_displace_no_others() -> None:
    real = points("2026-05-01 08:00", "2026-05-02 08:00")
    wrong = points("2027-05-01 08:00", "2027-05-02 08:00", "2027-05-03 08:00")
    stays = left(retention(daily=2), real + wrong, "2026-05-02 10:00")
    assert stays == ["2026-05-01 08:00", "2026-05-02 08:00", "2027-05-02 08:00", "2027-05-03 08:00"]


def test_kept_names_the_tiers_that_each_snapshot_is_kept_for() -> None:
    known = points("2026-05-01 08:00", "2026-05-02 08:00")
    kept = retention(hourly=1, daily=2, monthly=1).kept(known, at("2026-05-02 10:00"))
    assert kept == {"2026-05-01 08:00": ["daily"], "2026-05-02 08:00": ["hourly", "daily", "monthly"]}


@pytest.mark.parametrize(
    ("rule", "now", "due"),
    [
        (retention(hourly=1), "2026-05-01 08:59", False),
        (retention(hourly=1), "2026-05-01 09:00", True),
        (retention(hourly=1, shift=timedelta(minutes=5)), "2026-05-01 09:04", False),
        (retention(hourly=1, shift=timedelta(minutes=5)), "2026-05-01 09:05", True),
        (retention(daily=1), "2026-05-01 23:59", False),
        (retention(daily=1), "2026-05-02 00:00", True),
        (retention(weekly=1), "2026-05-03 23:59", False),
        (retention(weekly=1), "2026-05-04 00:00", True),
        (retention(monthly=1), "2026-06-01 00:00", True),
        (retention(), "2030-01-01 00:00", False),
    ],
)
def test_a_snapshot_is_due_when_the_current_span_has_none(rule: Retention, now: str, due: bool) -> None:
    assert rule.due(points("2026-05-01 08:30"), at(now)) is due


def test_the_hour_that_comes_twice_has_two_snapshots_and_the_skipped_hour_none() -> None:
    rule = retention(hourly=1)
    twice = at("2026-10-25 02:30")
    assert rule.due([Point(twice, "first")], twice + HOUR)
    left_out = at("2026-03-29 01:30")
    assert datetime.fromtimestamp(left_out + HOUR, BERLIN).hour == 3
    assert rule.due([Point(left_out, "before")], left_out + HOUR)


@given(
    st.lists(st.floats(0, 4e9), max_size=60, unique=True),
    st.floats(0, 4e9),
    st.tuples(*[st.integers(0, 5)] * 4),
)
def test_removing_the_surplus_makes_no_other_snapshot_surplus(
    times: list[float], now: float, counts: tuple[int, ...]
) -> None:
    rule = retention(*counts)
    known = [Point(one, str(number)) for number, one in enumerate(times)]
    gone = rule.surplus(known, now)
    stays = [one for one in known if one not in gone]
    assert rule.surplus(stays, now) == []
    if gone:
        half = [one for one in known if one not in gone[::2]]
        assert rule.surplus(half, now) == gone[1::2]


def test_tenants_are_spread_over_the_hour() -> None:
    moments = [spread(f"client-{number}").total_seconds() for number in range(1000)]
    assert all(0 <= one < HOUR for one in moments)
    in_each_ten_minutes = [sum(one // 600 == part for one in moments) for part in range(6)]
    assert min(in_each_ten_minutes) > 120
    assert spread("client-1") == spread("client-1")
