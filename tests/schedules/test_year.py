"""A simulated year of snapshots: ten tenants, both changes to and from summer time, downtimes, and clock jumps.

The models to compare with are written in another way: they read the calendar as text.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from bot.engine.retention import Point, Retention, spread
from bot.settings import SnapshotSettings

BERLIN = ZoneInfo("Europe/Berlin")
BEGIN = int(datetime(2026, 1, 1, tzinfo=BERLIN).timestamp())
HOUR = 3600
YEAR = 8760
COUNTS = SnapshotSettings(hourly=24, daily=7, weekly=4, monthly=6)
TIERS = (24, 7, 4, 6)
TENANTS = [f"client-{number}" for number in range(50)]
of_some = pytest.mark.parametrize("many", [10, pytest.param(len(TENANTS), marks=pytest.mark.long)])
"""The number of tenants, each with its own moment of the hour."""
JUMPS = {1000: 5, 2500: -3, 4000: 400 * 24, 4030: -400 * 24, 6000: -20 * 24, 7500: 1}
"""Hours of the year at which the clock is set, and by how many hours."""
PRUNED = 0.03
"""The chance of a prune in each hour: whenever it happens, the same has to be left."""


def away(chance: random.Random) -> set[int]:
    """Return the hours of the year in which the bot is down: often some hours, sometimes days, once weeks."""
    hours: set[int] = set()
    for longest, times in ((6, 40), (6 * 24, 5), (45 * 24, 1)):
        for _ in range(times):
            begin = chance.randrange(YEAR)
            hours.update(range(begin, begin + chance.randint(1, longest)))
    return hours


@lru_cache(500)
def labels(late: float, at: int) -> tuple[str, ...]:
    """Return the hour, day, week and month of a moment as text, for a tenant whose hours begin `late` seconds later."""
    local = datetime.fromtimestamp(at - late, BERLIN)
    text = local.isoformat(timespec="hours")
    return text, text[:10], local.strftime("%G-%V"), text[:7]


def stays(late: float, existing: Iterable[int], now: int) -> set[int]:
    """Return what the model keeps: from new to old, the first of each of the last hours, days, weeks and months."""
    left: set[int] = set()
    newest_first = sorted(existing, reverse=True)
    for side in ([at for at in newest_first if at <= now], [at for at in newest_first if at > now]):
        left.update(side[:1])
        for tier, count in enumerate(TIERS):
            seen: set[str] = set()
            for at in side:
                if (label := labels(late, at)[tier]) not in seen and len(seen) < count:
                    seen.add(label)
                    left.add(at)
    return left


@of_some
def test_a_year_with_a_correct_clock_agrees_with_the_model(many: int) -> None:
    """The model keeps a ledger of every snapshot that was ever taken, and does not prune."""
    chance = random.Random(2026)
    downtime = away(chance)
    for tenant in TENANTS[:many]:
        rule, late = Retention(COUNTS, BERLIN, spread(tenant)), spread(tenant).total_seconds()
        points: list[Point] = []
        ledger: list[dict[str, int]] = [{} for _ in TIERS]
        last = 0
        for hour in range(YEAR):
            if hour in downtime:
                continue
            # Somewhere within the hour: a tenant may be busy at its own moment.
            now = BEGIN + hour * HOUR + chance.randrange(HOUR)
            due = rule.due(points, now)
            assert due == (labels(late, now)[0] not in ledger[0]), (tenant, hour)
            if due:
                points.append(Point(now, str(now)))
                last = now
                for newest, label in zip(ledger, labels(late, now), strict=True):
                    newest[label] = now
            if chance.random() < PRUNED:
                gone = rule.surplus(points, now)
                points = [point for point in points if point not in gone]
                spans = zip(ledger, TIERS, strict=True)
                kept = {at for newest, count in spans for at in islice(reversed(newest.values()), count)}
                assert {point.at for point in points} == kept | {last}, (tenant, hour)
        assert len(ledger[0]) > 0.65 * YEAR


@of_some
def test_a_year_with_clock_jumps_agrees_with_the_model(many: int) -> None:
    chance = random.Random(2027)
    downtime = away(chance)
    for tenant in TENANTS[:many]:
        rule, late = Retention(COUNTS, BERLIN, spread(tenant)), spread(tenant).total_seconds()
        points: list[Point] = []
        wrong = 0
        for hour in range(YEAR):
            wrong += JUMPS.get(hour, 0)
            if hour in downtime:
                continue
            now = BEGIN + (hour + wrong) * HOUR + chance.randrange(HOUR)
            last_hour = [int(point.at) for point in points if now - HOUR < point.at <= now]
            there = any(labels(late, at)[0] == labels(late, now)[0] for at in last_hour)
            assert rule.due(points, now) is not there, (tenant, hour)
            if not there:
                points.append(Point(now, str(now)))
            if chance.random() < PRUNED:
                gone = rule.surplus(points, now)
                left = stays(late, [int(point.at) for point in points], now)
                points = [point for point in points if point not in gone]
                assert {point.at for point in points} == left, (tenant, hour)
                # At most all of the policy, and as much again that is dated after now.
                assert len(points) <= 2 * sum(TIERS)
