"""How fast disks and pools fill, by past measurements, and when they will be full."""

from __future__ import annotations

from dataclasses import dataclass

from bot.store.database import Database


@dataclass(frozen=True)
class Growth:
    """How something fills: bytes at the last measurement, and bytes a day over the last `days` days."""

    latest: int
    per_day: float
    days: float

    def days_to_full(self, limit: int) -> float | None:
        """Return the days until `limit` bytes are reached; None if it does not grow, or that cannot be predicted.

        A past of less than a day predicts nothing, and no past predicts further ahead than four times its length.
        """
        if self.latest >= limit:
            return 0.0
        if self.per_day <= 0 or self.days < 1:
            return None
        days = (limit - self.latest) / self.per_day
        return days if days <= 4 * self.days else None


def growth(database: Database, since: float, now: float) -> dict[str, Growth]:
    """Return how the disk of each tenant of the last sweep fills: least squares over hourly samples, in one query."""
    return _growth(database, "tenant_samples", "tenant", "disk", since, now)


def pool_growth(database: Database, since: float, now: float) -> dict[str, Growth]:
    """Return how the pool of each host of the last sweep fills, as `growth` does."""
    return _growth(database, "host_samples", "host", "used", since, now)


def _growth(database: Database, table: str, column: str, measure: str, since: float, now: float) -> dict[str, Growth]:
    rows = database.read(
        f"""
        WITH last AS (
          SELECT {column} AS subject, {measure} AS latest FROM {table}
          WHERE span = 0 AND at = (SELECT max(at) FROM {table} WHERE span = 0 AND at <= ?2) AND latest IS NOT NULL),
        past AS (
          SELECT {column} AS subject, (at - ?1) / 86400.0 AS x, {measure} AS y FROM {table}
          WHERE span = 3600 AND at BETWEEN ?1 AND ?2 AND y IS NOT NULL
          UNION ALL
          SELECT {column} AS subject, (at - ?1) / 86400.0 AS x, {measure} AS y FROM {table}
          WHERE span = 0 AND at BETWEEN ?1 AND ?2 AND y IS NOT NULL
            AND at >= (SELECT coalesce(max(at) + 3600, 0) FROM {table} WHERE span = 3600 AND at <= ?2)),
        sums AS (
          SELECT subject, max(x) - min(x) AS days, count(*) AS n,
            total(x) AS sx, total(y) AS sy, total(x * x) AS sxx, total(x * y) AS sxy
          FROM past GROUP BY subject)
        SELECT * FROM last JOIN sums USING (subject)
        """,  # noqa: S608
        int(since),
        now,
    )
    grown = {}
    for row in rows:
        spread = row["n"] * row["sxx"] - row["sx"] ** 2
        slope = (row["n"] * row["sxy"] - row["sx"] * row["sy"]) / spread if spread > 0 else 0.0
        grown[row["subject"]] = Growth(row["latest"], slope, row["days"])
    return grown
