"""The past of tenants and hosts: rolled up from what exists, so that no restart or second run changes it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bot import samples
from bot.database import Database
from bot.samples import DAY, HOUR, RAW, Growth, Reading

START = 1_799_971_200
"""A midnight."""
GIB = 1 << 30


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "bot.db")


def sweep(database: Database, at: float, *readings: Reading, pool: int = 0) -> None:
    with database.transaction() as transaction:
        samples.record(transaction, at, readings, {"local": (pool, 100 * GIB)})


def rows(database: Database) -> list[tuple[object, ...]]:
    return [
        tuple(row)
        for table in ("tenant_samples", "host_samples")
        for row in database.read(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
    ]


def test_a_mean_stays_a_mean_and_the_highest_the_highest(database: Database) -> None:
    sweep(database, START, Reading("client-x", up=True, memory=100, disk=5, queue_age=0, page=0.1))
    sweep(database, START + 300, Reading("client-x", up=False, memory=400, disk=9, queue_age=70))
    sweep(database, START + 600, Reading("client-x", up=True, memory=100, disk=7, queue_age=10, page=0.3))
    sweep(database, START + HOUR, Reading("client-x", up=False, memory=1000, disk=8, queue_age=0))
    sweep(database, START + DAY, Reading("client-x"))
    first, second, *_ = samples.history(database, "client-x", 0)
    assert (first.span, first.at, first.looks) == (HOUR, START, 3)
    assert (first.up, first.memory, first.memory_max, first.disk) == (pytest.approx(2 / 3), 200, 400, 9)
    assert (first.page, first.page_max, first.queue_age) == (pytest.approx(0.2), 0.3, 70)
    assert (second.looks, second.memory) == (1, 1000)
    day = samples.history(database, "client-x", 0, DAY)[0]
    # Each look has the same weight, however many there were in an hour.
    assert (day.span, day.looks, day.up, day.memory) == (DAY, 4, 0.5, 400)
    assert (day.page, day.disk) == (pytest.approx(0.2), 9)


def test_what_was_not_seen_is_no_nought(database: Database) -> None:
    sweep(database, START, Reading("client-x"))
    sweep(database, START + HOUR, Reading("client-x", memory=7))
    assert [one.memory for one in samples.history(database, "client-x", 0)] == [None, 7]


def test_cpu_is_cores_in_use_and_begins_anew_with_the_container(database: Database) -> None:
    for minute, spent in ((0, 50e9), (5, 200e9), (10, 1e9), (15, 301e9)):
        sweep(database, START + minute * 60, Reading("client-x", cpu_time=int(spent)))
    cores = [one.cpu for one in samples.history(database, "client-x", 0, RAW)]
    assert cores == [None, 0.5, None, 1.0]


def test_rolling_up_late_or_twice_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bots see the same 70 days: one rolls up at each look, the other at times, and then twice."""
    steady, late = Database(tmp_path / "steady.db"), Database(tmp_path / "late.db")
    roll_up = samples.roll_up
    chance = random.Random(7)
    now = START
    taken = 0
    while now < START + 70 * DAY:
        reading = Reading("client-x", up=chance.random() < 0.9, memory=chance.randrange(GIB), disk=now - START)
        sweep(steady, now, reading, pool=now - START)
        with monkeypatch.context() as away:
            away.setattr(samples, "roll_up", lambda *_: None)
            sweep(late, now, reading, pool=now - START)
        taken += 1
        now += chance.choice((1800, 2700, HOUR, 5 * HOUR, 3 * DAY))
        if chance.random() < 0.1 or now >= START + 70 * DAY:
            for database in (late, late, steady):
                with database.transaction() as transaction:
                    roll_up(transaction, now)
    assert rows(steady) == rows(late)
    kept = samples.history(steady, "client-x", 0, DAY)
    assert kept[0].at == START
    assert sum(one.looks for one in kept) == taken


def test_no_look_is_lost_or_counted_twice(database: Database) -> None:
    taken = 0
    for number in range(5 * 24 * 4):
        # The bot is away on the third day.
        if not 2 * 96 <= number < 3 * 96:
            sweep(database, START + number * 900, Reading("client-x", up=True))
            taken += 1
    assert sum(one.looks for one in samples.history(database, "client-x", 0)) == taken
    assert sum(one.looks for one in samples.history(database, "client-x", 0, DAY)) == taken
    assert {one.span for one in samples.history(database, "client-x", 0, DAY)} == {DAY, HOUR, RAW}
    oldest = min(one.at for one in samples.history(database, "client-x", 0, RAW))
    assert oldest >= START + 5 * DAY - 900 - 2 * DAY - HOUR


def test_growth_tells_when_it_is_full(database: Database) -> None:
    for hour in range(5 * 24 + 1):
        sweep(
            database,
            START + hour * HOUR,
            Reading("grows", disk=10 * GIB + hour * GIB // 24, memory=GIB),
            Reading("shrinks", disk=10 * GIB - hour * 1000),
            *([Reading("new", disk=hour)] if hour > 110 else []),
            *([Reading("gone", disk=hour)] if hour < 110 else []),
            pool=hour * GIB // 12,
        )
    grown = samples.growth(database, "disk", START)
    assert set(grown) == {"grows", "shrinks", "new"}
    assert grown["grows"].latest == 15 * GIB
    assert grown["grows"].per_day == pytest.approx(GIB, rel=1e-6)
    assert grown["grows"].days_to_full(30 * GIB) == pytest.approx(15)
    assert grown["grows"].days_to_full(15 * GIB) == 0
    assert grown["shrinks"].days_to_full(30 * GIB) is None
    assert grown["new"].days_to_full(30 * GIB) is None, "its past is shorter than a day"
    assert samples.growth(database, "memory", START)["grows"] == Growth(GIB, 0.0, 5.0)
    assert samples.pool_growth(database, START)["local"].days_to_full(100 * GIB) == pytest.approx(45)
    assert [one.used for one in samples.pool_history(database, "local", START)][-1] == 10 * GIB
    assert samples.latest(database)["grows"].disk == 15 * GIB


def test_the_bot_has_been_awake_since_its_last_long_break(database: Database) -> None:
    assert samples.awake_since(database) == 0
    for minute in (0, 5, 10, 300, 305):
        sweep(database, START + minute * 60)
    assert samples.awake_since(database) == START + 300 * 60
