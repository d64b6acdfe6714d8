# ruff: noqa: S608 - every name in SQL is quoted, or is a constant
"""`evidence`: reports versions, schema, row counts and a client's own files, to compare before and after an upgrade."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from . import trees
from .logs import MAUTICS, known_secrets, masked
from .migrations import recorded
from .rows import rows
from .system import MAUTIC, mautic_version, php_version, sql
from .trees import LISTING, NEXT_LISTING

SCHEMA = """
SELECT CONCAT_WS(' ', table_name, 'table', engine, table_collation)
  FROM information_schema.tables WHERE table_schema = 'mautic';
SELECT CONCAT_WS(' ', table_name, 'column', column_name, column_type, IF(is_nullable = 'YES', 'null', 'not null'),
  CONCAT('default ', column_default), NULLIF(extra, ''), collation_name)
  FROM information_schema.columns WHERE table_schema = 'mautic';
SELECT CONCAT_WS(' ', table_name, 'index', index_name, IF(non_unique, NULL, 'unique'),
  GROUP_CONCAT(CONCAT(column_name, IFNULL(CONCAT('(', sub_part, ')'), '')) ORDER BY seq_in_index))
  FROM information_schema.statistics WHERE table_schema = 'mautic' GROUP BY table_name, index_name, non_unique;
SELECT CONCAT_WS(' ', k.table_name, 'foreign key', k.constraint_name, GROUP_CONCAT(k.column_name
  ORDER BY k.ordinal_position), '->', k.referenced_table_name, GROUP_CONCAT(k.referenced_column_name
  ORDER BY k.ordinal_position), r.update_rule, r.delete_rule)
  FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r
    ON r.constraint_schema = k.table_schema AND r.constraint_name = k.constraint_name AND r.table_name = k.table_name
  WHERE k.table_schema = 'mautic' AND k.referenced_table_name IS NOT NULL
  GROUP BY k.table_name, k.constraint_name, k.referenced_table_name, r.update_rule, r.delete_rule;
"""
LINES, LETTERS = 8000, 500_000
"""The most lines and characters of a schema that are returned. Tables of form results, one per form, come last."""
RESULTS = "form_results_"
TABLES = 2000
PATIENCE = 5.0
"""Seconds that counting one table may take."""
BUDGET = 50.0
"""Seconds that counting all tables may take."""
ERRORS = 40
LOG_LINE = re.compile(r"\[([^]]+)\] (?!request\.ERROR)\w+\.(?:ERROR|CRITICAL|ALERT|EMERGENCY): (.*)")
TAIL = 4 << 20


def evidence(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, schema, row counts, the client's own files, and the errors in the log.

    Request: since? (epoch seconds; errors from then on), patience? (seconds for counting one table; a table that takes
    longer is listed in `uncounted` instead).

    `schema` has a line for each table, column, index and foreign key; equal schemas have equal lines in equal order.
    `whole`: no line was left out. `plugins`: the client's own, with their versions, and whether Mautic loads them
    (known only once `mautic:plugins:reload` has run on this tree).
    """
    schema = sql("SET SESSION group_concat_max_len = 65535;" + SCHEMA)
    lines, whole = shortened([row[0] for row in schema])
    counts, uncounted = _counts(float(request.get("patience") or PATIENCE))
    own = trees.own(MAUTIC, trees.read_listing(LISTING), trees.read_listing(NEXT_LISTING))
    return {
        "version": mautic_version(),
        "php": php_version(),
        "mariadb": sql("SELECT VERSION();")[0][0],
        "schema": lines,
        "whole": whole,
        "counts": counts,
        "uncounted": uncounted,
        "migrations": len(recorded() or ()),
        "plugins": _plugins(own["plugins"]),
        "own": trees.in_short(own),
        "errors": _errors(float(request.get("since") or 0)),
    }


def shortened(lines: Iterable[str]) -> tuple[list[str], bool]:
    """Return a schema's lines in order, cut at LINES and LETTERS, and whether none was cut."""
    ordered = sorted(lines, key=lambda line: (line.startswith(RESULTS), line))
    kept, letters = [], 0
    for line in ordered[:LINES]:
        letters += len(line)
        if letters > LETTERS:
            break
        kept.append(line)
    return kept, len(kept) == len(ordered)


def _counts(patience: float) -> tuple[dict[str, int], list[str]]:
    """Return the rows of each table, and the tables that there was no time to count; small tables come first."""
    tables = sql(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mautic'"
        f" AND table_type = 'BASE TABLE' ORDER BY table_rows, table_name LIMIT {TABLES};"
    )
    names = [row[0] for row in tables if re.fullmatch(r"\w+", row[0])]
    counts = rows(names, patience, BUDGET)
    return counts, [name for name in names if name not in counts]


def _plugins(own: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return {name: {version, loads}}; Mautic does not load plugins that its table marks as missing or lacks."""
    rows = sql("SELECT bundle, IFNULL(version, ''), is_missing FROM plugins;", "mautic", force=True)
    told = {name: (version, missing == "0") for name, version, missing in rows}
    return {name: dict(zip(("version", "loads"), told.get(name, ("", False)), strict=True)) for name in own}


def _errors(since: float) -> dict[str, int]:
    """Count the errors in Mautic's logs since a time by their text, in which numbers are replaced with `#`."""
    moment = datetime.fromtimestamp(since, UTC).isoformat()
    found: Counter[str] = Counter()
    secrets = known_secrets()
    for path in (path for pattern in MAUTICS for path in sorted((MAUTIC / "var/logs").glob(pattern))[-2:]):
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL))
            for line in log.read().decode(errors="replace").splitlines():
                if (match := LOG_LINE.match(line)) and match[1] >= moment:
                    found[re.sub(r"\d+", "#", masked(match[2][:1000], secrets))[:200]] += 1
    return dict(found.most_common(ERRORS))
