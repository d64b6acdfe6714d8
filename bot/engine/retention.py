"""Retention: whether a snapshot is due, and which are surplus, decided from those that exist. Pure.

An hour, a day, a week or a month is a *span* of the local calendar. Of the newest spans that have a snapshot, as many
as the policy says keep their newest one. So neither downtime, a changed clock nor a day of 23 or 25 hours needs a rule
of its own: what is not there is not counted, and nothing becomes surplus by growing old.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from bot.settings import SnapshotSettings

SPANS: dict[str, Callable[[datetime], Hashable]] = {
    # The hour that a clock put back repeats is another one, by its offset.
    "hourly": lambda local: (local.date(), local.hour, local.utcoffset()),
    "daily": lambda local: local.date(),
    "weekly": lambda local: local.isocalendar()[:2],
    "monthly": lambda local: (local.year, local.month),
}
"""The span of a local time, in each tier, finest first."""


@dataclass(frozen=True, order=True)
class Point:
    """A snapshot that the tiers count: when it was taken, in epoch seconds, and its name."""

    at: float
    name: str


@dataclass(frozen=True)
class Retention:
    """The policy, for one tenant: `shift` is by how much its spans begin later than the calendar's."""

    counts: SnapshotSettings
    zone: ZoneInfo
    shift: timedelta = timedelta()

    def _local(self, at: float) -> datetime:
        return datetime.fromtimestamp(at - self.shift.total_seconds(), self.zone)

    def due(self, points: Iterable[Point], now: float) -> bool:
        """Whether the present span of the finest tier has no snapshot yet; what is dated after now does not count."""
        finest = next((span for tier, span in SPANS.items() if getattr(self.counts, tier)), None)
        if finest is None:
            return False
        last = max((point.at for point in points if point.at <= now), default=None)
        return last is None or finest(self._local(last)) != finest(self._local(now))

    def kept(self, points: Iterable[Point], now: float) -> dict[str, list[str]]:
        """Return the snapshots that stay, by name, each with the tiers that it is kept for.

        What a wrong clock dated into the future is counted apart, so that it takes the place of nothing real. The
        newest of both stays in any case.
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
        """Return the snapshots that no tier keeps, oldest first; where there are no tiers, none is."""
        if not any(getattr(self.counts, tier) for tier in SPANS):
            return []
        everything = sorted(points)
        kept = self.kept(everything, now)
        return [point for point in everything if point.name not in kept]


def spread(tenant: str) -> timedelta:
    """Return a tenant's own moment within the hour, so that not all snapshots are taken at once."""
    return timedelta(seconds=int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:4], "big") % 3600)
