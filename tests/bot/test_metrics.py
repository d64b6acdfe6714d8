"""The history of tenants and hosts: rolled up from what exists, so that no restart or second run changes it."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from bot.store import metrics
from bot.store.database import Database
from bot.store.growth import growth, pool_growth
from bot.store.metrics import AWAY, DAY, HOUR, RAW, HostReading, Reading

START = 1_799_971_200
"""A midnight."""
GIB = 1 << 30


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "bot.db")


def sweep(database: Database, at: float, *readings: Reading, pool: int = 0) -> None:
    with database.transaction() as transaction:
        metrics.record(transaction, at, readings, {"local": metrics.HostReading(pool, 100 * GIB)})


def rows(database: Database) -> list[tuple[object, ...]]:
    return [
        tuple(row)
        for table in ("tenant_samples", "host_samples")
        for row in database.read(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
    ]


def test_rolling_up_keeps_means_and_maxima(database: Database) -> None:
    sweep(database, START, Reading("client-x", up=True, memory=100, disk=5, queue_age=0, page=0.1))
    sweep(database, START + 300, Reading("client-x", up=False, memory=400, disk=9, queue_age=70))
    sweep(database, START + 600, Reading("client-x", up=True, memory=100, disk=7, queue_age=10, page=0.3))
    sweep(database, START + HOUR, Reading("client-x", up=False, memory=1000, disk=8, queue_age=0))
    sweep(database, START + DAY, Reading("client-x"))
    first, second, *_ = metrics.history(database, "client-x", 0, START + DAY)
    assert (first.span, first.at, first.looks) == (HOUR, START, 3)
    assert (first.up, first.memory, first.memory_max, first.disk) == (pytest.approx(2 / 3), 200, 400, 9)
    assert (first.page, first.page_max, first.queue_age) == (pytest.approx(0.2), 0.3, 70)
    assert (second.looks, second.memory) == (1, 1000)
    day = metrics.history(database, "client-x", 0, START + DAY, DAY)[0]
    # Each look has the same weight, however many there were in an hour.
    assert (day.span, day.looks, day.up, day.memory) == (DAY, 4, 0.5, 400)
    assert (day.page, day.disk) == (pytest.approx(0.2), 9)


def test_the_maximum_of_a_week_is_found_in_days_in_hours_and_in_the_last_look(database: Database) -> None:
    now = START + 9 * DAY + 5 * HOUR
    highest = {"by day": 3 * DAY, "by hour": 9 * DAY + HOUR, "yesterday": 8 * DAY + HOUR, "now": 9 * DAY + 5 * HOUR}
    for at in range(0, 9 * DAY + 5 * HOUR + 1, HOUR):
        told = [Reading(name, memory=900 if at == peak else 100) for name, peak in highest.items()]
        long_ago = Reading("long ago", memory=900 if at == DAY else 100)
        sweep(database, START + at, *told, long_ago)
    assert metrics.highest(database, now - 7 * DAY, now) == {name: 900 for name in highest} | {"long ago": 100}
    assert metrics.highest(database, now - DAY, now)["by day"] == 100
    assert metrics.highest(database, now - DAY, now)["by hour"] == 900


def test_a_value_that_was_not_measured_is_none_and_not_zero(database: Database) -> None:
    sweep(database, START, Reading("client-x"))
    sweep(database, START + HOUR, Reading("client-x", memory=7))
    assert [one.memory for one in metrics.history(database, "client-x", 0, START + HOUR)] == [None, 7]


def test_cpu_is_the_cores_in_use_and_starts_over_with_the_container(database: Database) -> None:
    for minute, spent in ((0, 50e9), (5, 200e9), (10, 1e9), (15, 301e9)):
        sweep(database, START + minute * 60, Reading("client-x", cpu_time=int(spent)))
    cores = [one.cpu for one in metrics.history(database, "client-x", 0, START + HOUR, RAW)]
    assert cores == [None, 0.5, None, 1.0]


def test_rolling_up_late_or_twice_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bots see the same 70 days: one rolls up at each look, the other only sometimes, and then twice."""
    steady, late = Database(tmp_path / "steady.db"), Database(tmp_path / "late.db")
    roll_up = metrics.roll_up
    chance = random.Random(7)
    now = START
    taken = 0
    while now < START + 70 * DAY:
        reading = Reading("client-x", up=chance.random() < 0.9, memory=chance.randrange(GIB), disk=now - START)
        sweep(steady, now, reading, pool=now - START)
        with monkeypatch.context() as away:
            away.setattr(metrics, "roll_up", lambda *_: None)
            sweep(late, now, reading, pool=now - START)
        taken += 1
        now += chance.choice((1800, 2700, HOUR, 5 * HOUR, 3 * DAY))
        if chance.random() < 0.1 or now >= START + 70 * DAY:
            for database in (late, late, steady):
                with database.transaction() as transaction:
                    roll_up(transaction, now, lambda age, now=now: now - age)
    assert rows(steady) == rows(late)
    kept = metrics.history(steady, "client-x", 0, now, DAY)
    assert kept[0].at == START
    assert sum(one.looks for one in kept) == taken


def test_no_look_is_lost_or_counted_twice(database: Database) -> None:
    taken = 0
    for number in range(5 * 24 * 4):
        # The bot is away on the third day.
        if not 2 * 96 <= number < 3 * 96:
            sweep(database, START + number * 900, Reading("client-x", up=True))
            taken += 1
    now = START + 5 * DAY - 900
    assert sum(one.looks for one in metrics.history(database, "client-x", 0, now)) == taken
    assert sum(one.looks for one in metrics.history(database, "client-x", 0, now, DAY)) == taken
    assert {one.span for one in metrics.history(database, "client-x", 0, now, DAY)} == {DAY, HOUR, RAW}
    assert min(one.at for one in metrics.history(database, "client-x", 0, now, RAW)) >= now - 2 * DAY - HOUR


def test_growth_predicts_when_a_disk_is_full(database: Database) -> None:
    for hour in range(5 * 24 + 1):
        sweep(
            database,
            START + hour * HOUR,
            Reading("grows", disk=10 * GIB + hour * GIB // 24),
            Reading("shrinks", disk=10 * GIB - hour * 1000),
            *([Reading("new", disk=hour)] if hour > 110 else []),
            *([Reading("gone", disk=hour)] if hour < 110 else []),
            pool=hour * GIB // 12,
        )
    now = START + 5 * DAY
    grown = growth(database, START, now)
    assert set(grown) == {"grows", "shrinks", "new"}
    assert grown["grows"].latest == 15 * GIB
    assert grown["grows"].per_day == pytest.approx(GIB, rel=1e-6)
    assert grown["grows"].days_to_full(30 * GIB) == pytest.approx(15)
    assert grown["grows"].days_to_full(15 * GIB) == 0
    assert grown["grows"].days_to_full(36 * GIB) is None, "five days say nothing about the next twenty-one"
    assert grown["shrinks"].days_to_full(30 * GIB) is None
    assert grown["new"].days_to_full(30 * GIB) is None, "its history is shorter than a day"
    assert pool_growth(database, START, now)["local"].days_to_full(48 * GIB) == pytest.approx(19)
    assert [one.used for one in metrics.pool_history(database, "local", START, now)][-1] == 10 * GIB
    assert metrics.latest(database, now)["grows"].disk == 15 * GIB


def test_a_host_has_been_looked_at_since_the_last_gap_which_may_end_now(database: Database) -> None:
    assert metrics.awake_since(database, START) == {}
    for minute in (0, 5, 10, 300, 305):
        sweep(database, START + minute * 60)
    assert metrics.awake_since(database, START + 305 * 60 + AWAY) == {"local": START + 300 * 60}
    later = START + 305 * 60 + AWAY + 1
    assert metrics.awake_since(database, later) == {"local": later}


def test_a_host_that_did_not_answer_for_a_while_has_a_gap_of_its_own(database: Database) -> None:
    for minute in range(0, 60, 5):
        hosts = {name: HostReading(1, 2) for name in (["node1"] if 10 < minute < 40 else ["node1", "node2"])}
        with database.transaction() as transaction:
            metrics.record(transaction, START + minute * 60, [], hosts)
    awake = metrics.awake_since(database, START + 55 * 60)
    assert awake == {"node1": START, "node2": START + 40 * 60}


def test_a_gap_is_known_for_longer_than_single_looks_are_kept(database: Database) -> None:
    """Looks are kept for two days, hours for sixty."""
    for at in (*range(0, 10 * HOUR, 900), *range(12 * HOUR, 70 * DAY, 900)):
        sweep(database, START + at)
        if at in (20 * HOUR, 6 * DAY, 59 * DAY):
            assert metrics.awake_since(database, START + at) == {"local": START + 12 * HOUR}
    assert metrics.awake_since(database, START + 70 * DAY) == {"local": START}, "only days are left of it"


def test_a_gap_of_days_is_known_when_the_looks_before_it_are_gone(database: Database) -> None:
    for at in (0, 300, 600, 3 * DAY, 3 * DAY + 300):
        sweep(database, START + at)
    assert len(metrics.history(database, "client-x", START, START + 3 * DAY)) == 0
    assert metrics.awake_since(database, START + 3 * DAY + 300) == {"local": START + 3 * DAY}


def test_samples_of_a_clock_that_was_ahead_distort_no_later_figures(database: Database) -> None:
    """The clock is 400 days ahead for three hours and then corrected; the samples of these hours stay as they are."""
    late = START + 5 * HOUR
    for minute in range(0, 180, 5):
        sweep(database, late + 400 * DAY + minute * 60, Reading("client-x", disk=99 * GIB), pool=99 * GIB)
    for hour in range(3 * 24 + 1):
        sweep(database, now := late + hour * HOUR, Reading("client-x", disk=hour * GIB), pool=hour * GIB)
    assert sum(one.looks for one in metrics.history(database, "client-x", 0, now)) == 73
    assert [one.disk for one in metrics.history(database, "client-x", 0, now, DAY)][:2] == [18 * GIB, 42 * GIB]
    assert metrics.latest(database, now)["client-x"].disk == 72 * GIB
    assert metrics.looked_at(database, now) == {"client-x": now}
    assert growth(database, START, now)["client-x"].per_day == pytest.approx(24 * GIB)
    grown = pool_growth(database, START, now)["local"]
    assert (grown.latest, grown.days) == (72 * GIB, pytest.approx(3))
    assert metrics.pool_history(database, "local", START, now)[-1].used == 72 * GIB
    assert metrics.awake_since(database, now) == {"local": now}
    ahead = database.read("SELECT sum(looks) AS looks FROM tenant_samples WHERE at > ? AND span = 0", now)
    assert ahead[0]["looks"] == 36


def test_disk_usage_that_was_counted_differently_before_is_no_growth(database: Database, tmp_path: Path) -> None:
    """Older releases stored the exclusive bytes of a tenant with a snapshot: far fewer than its limit counts."""
    for day in range(6):
        sweep(database, START + day * DAY, Reading("client-x", disk=(day + 1) << 20))
    database.close()
    with sqlite3.connect(tmp_path / "bot.db") as old:
        old.execute("UPDATE tenant_samples SET disk = (at - ?) / 86400 * 1048576", (START - DAY,))
        old.executescript("DROP TABLE tenant_disks; ALTER TABLE operations DROP COLUMN reason;")
        old.execute("DELETE FROM _sqlite_migrations WHERE name IN ('m017_disks', 'm018_given_up')")
    again = Database(tmp_path / "bot.db")
    now = START + 6 * DAY
    assert metrics.disks(again) == {}
    assert growth(again, START, now) == {}
    for hour in range(3):
        sweep(again, now + hour * HOUR, Reading("client-x", disk=28 * GIB, disk_limit=30 * GIB))
    later = now + 2 * HOUR
    assert growth(again, START, later)["client-x"].days_to_full(30 * GIB) is None
    assert metrics.disks(again) == {"client-x": metrics.KnownDisk(later, 28 * GIB, 30 * GIB)}
    assert [one.disk for one in metrics.history(again, "client-x", START, later, DAY)][:6] == [None] * 6
    assert again.read("SELECT reason FROM operations") == []


def test_the_last_known_usage_of_a_disk_stays_while_it_cannot_be_measured(database: Database) -> None:
    sweep(database, START, Reading("client-x", disk=5 * GIB, disk_limit=30 * GIB))
    sweep(database, START + DAY, Reading("client-x"))
    assert metrics.disks(database) == {"client-x": metrics.KnownDisk(START, 5 * GIB, 30 * GIB)}
