"""Moments as people type them, in the fleet's zone, also on the days when the clocks are changed."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from bot.model.moments import Hours, joined, moment, spelled

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


NOW = at("2026-11-28 14:30")
"""A Saturday."""


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("22:00", "2026-11-28 22:00"),
        ("14:30", "2026-11-29 14:30"),
        ("9:05", "2026-11-29 09:05"),
        ("at 22:00", "2026-11-28 22:00"),
        ("10pm", "2026-11-28 22:00"),
        ("10:15 PM", "2026-11-28 22:15"),
        ("12 am", "2026-11-29 00:00"),
        ("12pm", "2026-11-29 12:00"),
        ("today 22:00", "2026-11-28 22:00"),
        ("tonight 23:30", "2026-11-28 23:30"),
        ("today 10:00", "2026-11-28 10:00"),
        ("tomorrow 03:00", "2026-11-29 03:00"),
        ("Tomorrow at 3am", "2026-11-29 03:00"),
        ("sun 03:00", "2026-11-29 03:00"),
        ("saturday 14:00", "2026-12-05 14:00"),
        ("saturday 15:00", "2026-11-28 15:00"),
        ("2026-12-01 02:00", "2026-12-01 02:00"),
        ("2026-12-01T02:00", "2026-12-01 02:00"),
        ("2026-12-01", "2026-12-01 00:00"),
        ("1.12.2026 02:00", "2026-12-01 02:00"),
        ("2h", "2026-11-28 16:30"),
        ("in 45m", "2026-11-28 15:15"),
        ("2026-12-01T02:00+01:00", "2026-12-01 02:00"),
        ("2026-12-01T01:00Z", "2026-12-01 02:00"),
    ],
)
def test_a_typed_moment_is_understood(typed: str, means: str) -> None:
    assert moment(typed, NOW, BERLIN) == at(means)


@pytest.mark.parametrize(
    "typed",
    ["", "soon", "22", "25:00", "22:61", "tomorrow", "monday", "13pm", "2026-02-30 02:00", "31.02.2026", "6.0.10"],
)
def test_other_text_is_no_moment(typed: str) -> None:
    assert moment(typed, NOW, BERLIN) is None


def test_a_time_that_comes_twice_in_a_day_means_the_next_one() -> None:
    before = at("2026-10-25 00:30")
    first = moment("02:30", before, BERLIN)
    assert first == datetime.fromisoformat("2026-10-25T02:30+02:00").timestamp()
    again = moment("02:30", first + 60, BERLIN)
    assert again == first + 3600, "the clocks were put back meanwhile"
    assert moment("02:30", again + 60, BERLIN) == at("2026-10-26 02:30")
    assert moment("tomorrow 02:30", at("2026-10-24 23:00"), BERLIN) == first


def test_a_time_that_the_clocks_skip_is_an_hour_later() -> None:
    found = moment("tomorrow 02:30", at("2026-03-28 20:00"), BERLIN)
    assert found == datetime.fromisoformat("2026-03-29T03:30+02:00").timestamp()


def test_tomorrow_is_the_next_day_however_long_today_is() -> None:
    for day, next_day in (("2026-03-28", "2026-03-29"), ("2026-10-24", "2026-10-25")):
        assert moment("tomorrow 12:00", at(f"{day} 12:00"), BERLIN) == at(f"{next_day} 12:00")


@pytest.mark.parametrize("typed", ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00", "2026-12-01T02:00+01:00"])
def test_a_spelled_moment_means_the_same_when_it_is_read(typed: str) -> None:
    meant = datetime.fromisoformat(typed).timestamp()
    assert spelled(meant, BERLIN) == typed
    assert moment(spelled(meant, BERLIN), NOW, BERLIN) == meant
    assert moment(spelled(meant - 20, BERLIN), NOW, BERLIN) == meant, "in whole minutes, never earlier"


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("client-x --at 22:00", ["client-x", "--at", "22:00"]),
        ("client-x --at tomorrow 03:00 6.0.10", ["client-x", "--at", "tomorrow 03:00", "6.0.10"]),
        ("--at 2026-12-01 02:00 client-x", ["--at", "2026-12-01 02:00", "client-x"]),
        ("--at 3 pm client-x", ["--at", "3 pm", "client-x"]),
        ("--at in 2h --all", ["--at", "in 2h", "--all"]),
        ("--at tomorrow at 3 am", ["--at", "tomorrow at 3 am"]),
        ("client-x --at", ["client-x", "--at"]),
        ("client-x 22:00", ["client-x", "22:00"]),
    ],
)
def test_the_words_of_a_moment_need_no_quotes(words: str, whole: list[str]) -> None:
    assert joined(words.split()) == whole


def test_hours_may_span_midnight() -> None:
    hours = Hours.of("22:00-05:00")
    assert hours
    assert [hours.has(at(f"2026-11-28 {clock}"), BERLIN) for clock in ("21:59", "22:00", "04:59", "05:00")] == [
        False,
        True,
        True,
        False,
    ]
    assert hours.next(NOW, BERLIN) == at("2026-11-28 22:00")
    assert hours.next(at("2026-11-29 03:00"), BERLIN) == at("2026-11-29 03:00")
    assert (str(hours), Hours.of("")) == ("22:00-05:00", None)
    for wrong in ("22:00", "22:00-22:00", "25:00-03:00", "night"):
        with pytest.raises(ValueError, match=r"does not match format|no part of a day"):
            Hours.of(wrong)


def test_hours_may_lie_within_a_day() -> None:
    hours = Hours.of("9:00-17:00")
    assert hours
    assert hours.has(NOW, BERLIN)
    assert hours.next(at("2026-11-28 18:00"), BERLIN) == at("2026-11-29 09:00")
