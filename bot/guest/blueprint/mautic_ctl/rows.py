# ruff: noqa: S608 - every name in SQL is quoted
"""Counts the rows of tables beside other work, within a time limit."""

import re
import time
from collections.abc import Iterable

from .database import await_database
from .system import CtlError, sql

PATIENCE, BUDGET = 1.0, 2.0
"""Seconds that counting may take: for one table, and for all of them."""
LARGE = 50_000
"""Rows from which a table is counted by itself; MariaDB estimates a table's rows without counting."""
AT_ONCE = 25
"""Small tables that are counted by one run of the client."""
LEAST = 0.05
"""Seconds that each table has at least."""


def rows(tables: Iterable[str], patience: float = PATIENCE, budget: float = BUDGET) -> dict[str, int]:
    """Return {table: rows}, with 0 for a missing table; tables that take too long to count are left out.

    The database may still be starting. Tables that it refuses to count are left out too, as their rows are unknown.
    """
    wanted = {name for name in tables if re.fullmatch(r"\w+", name)}
    began = time.monotonic()
    try:
        await_database()
        there = sql(
            "SELECT table_name, IFNULL(table_rows, 0) FROM information_schema.tables WHERE table_schema = 'mautic'"
            " AND table_type = 'BASE TABLE' ORDER BY table_rows, table_name;"
        )
        sizes = {name: int(about) for name, about in there if name in wanted}
        small = [name for name, about in sizes.items() if about < LARGE]
        counted = dict.fromkeys(wanted - sizes.keys(), 0)
        chunks = [small[at : at + AT_ONCE] for at in range(0, len(small), AT_ONCE)]
        for some in [*chunks, *([name] for name in sizes if name not in small)]:
            left = budget - (time.monotonic() - began)
            if left <= 0:
                break
            each = max(LEAST, min(patience, left / max(1, len(some))))
            asked = "".join(f"SELECT '{name}', COUNT(*) FROM `{name}`;\n" for name in some)
            told = sql(f"SET max_statement_time = {each:.3f};\n{asked}", "mautic", force=True)
            counted |= {name: int(number) for name, number in told}
    except CtlError:
        return {}
    return counted
