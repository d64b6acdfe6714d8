# ruff: noqa: S608 - every name in SQL is quoted
"""How many rows tables have: counted beside other work, in a time that has an end."""

import re
import time
from collections.abc import Iterable

from .system import CtlError, await_database, sql

PATIENCE, BUDGET = 1.0, 2.0
"""Seconds that one table may be counted for, and all of them."""
LARGE = 50_000
"""Rows from which on a table is counted by itself; MariaDB tells about how many it has without counting."""
AT_ONCE = 25
"""Small tables that are counted by one program."""
LEAST = 0.05
"""Seconds that each of the small tables has at least."""


def rows(tables: Iterable[str], patience: float = PATIENCE, budget: float = BUDGET) -> dict[str, int]:
    """Return the rows of tables, 0 of one that there is not; what would take too long to count is left out.

    The database may be starting. What it refuses is left out too: it is not known.
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
