"""Retention: whether a snapshot is due, and which are surplus, decided from those that exist. Pure.

An hour, a day, a week or a month is a *span* of the local calendar. Of the newest spans that have a snapshot, as many
as the policy says keep their newest one. So downtime, a changed clock and a day of 23 or 25 hours need no rules of
their own: missing snapshots are not counted, and age alone makes none surplus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from bot.settings import SnapshotSettings

SPANS: dict[str, Callable[[datetime], Hashable]] = {
    # When clocks go back, the repeated hour differs by its offset.
    "hourly": lambda local: (local.date(), local.hour, local.utcoffset()),
    "daily": lambda local: local.date(),
    "weekly": lambda local: local.isocalendar()[:2],
    "monthly": lambda local: (local.year, local.month),
}
"""The span that a local time is in, by tier, finest first."""


@dataclass(frozen=True, order=True)
class Point:
    """A snapshot that the tiers count: when it was taken, in epoch seconds, and its name."""

    at: float
    name: str


@dataclass(frozen=True)
class Retention:
    """The policy for one tenant; its spans begin later than those of the calendar, by `shift`."""

    counts: SnapshotSettings
    zone: ZoneInfo
    shift: timedelta = timedelta()

    def _local(self, at: float) -> datetime:
        return datetime.fromtimestamp(at - self.shift.total_seconds(), self.zone)

    def due(self, points: Iterable[Point], now: float) -> bool:
        """Return whether the current span of the finest tier has no snapshot yet; those of the future do not count."""
        finest = next((span for tier, span in SPANS.items() if getattr(self.counts, tier)), None)
        if finest is None:
            return False
        last = max((point.at for point in points if point.at <= now), default=None)
        return last is None or finest(self._local(last)) != finest(self._local(now))

    def kept(self, points: Iterable[Point], now: float) -> dict[str, list[str]]:
        """Return the snapshots to keep, by name, each with the tiers that keep it.

        Snapshots that a wrong clock dated into the future are counted separately, so that they displace no real one.
        The newest of both groups is always kept.
        """
        kept: dict[str, list[str]] = {}
        ordered = [(point, self._local(point.at)) for point in sorted(points)]
        past = [one for one in ordered if one[0].at <= now]
        for side in (past, ordered[len(past) :]):
            for point, _ in side[-1:]:
                kept[point.name] = []
            for tier, span in SPANS.items():
                newest = {span(local): point for point, local in side}
                count = getattr(self.counts, tier)
                for point in list(newest.values())[max(0, len(newest) - count) :]:
                    kept.setdefault(point.name, []).append(tier)
        return kept

    def surplus(self, points: Iterable[Point], now: float) -> list[Point]:
        """Return the snapshots that no tier keeps, oldest first; none if all tiers are off."""
        if not any(getattr(self.counts, tier) for tier in SPANS):
            return []
        everything = sorted(points)
        kept = self.kept(everything, now)
        return [point for point in everything if point.name not in kept]


def spread(tenant: str) -> timedelta:
    """Return a tenant's offset within the hour, by a hash of its name, so that not all snapshots are taken at once."""
    return timedelta(seconds=int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:4], "big") % 3600)
