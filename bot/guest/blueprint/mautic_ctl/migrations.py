# ruff: noqa: S608 - every value in SQL goes through sql_text(), or is a constant
"""`record`, `migrate`, `up_to_date`: runs Mautic's migrations, and checks the table that records them.

What ran is read from that table, not from the command's output.
"""

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .logs import known_secrets, masked, words_of
from .system import MAUTIC, CtlError, console, console_for, sql, sql_text
from .trees import BEFORE, must_be_closed

SYNC = "doctrine:migrations:sync-metadata-storage"
"""The command that creates the table of migrations."""
PREFIX = "Mautic\\Migrations\\"
SECONDS = 3600
"""Seconds that the migrations of a large client may take."""
LIMIT = 20_000
ROWS = {"inserted": "Handler_write", "updated": "Handler_update", "deleted": "Handler_delete"}
"""MariaDB's counters of written rows, for the whole server."""
LATE = 124
"""Exit code of timeout."""


def record(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Record the serving tree's migrations as done if none is recorded, and return {recorded: how many}.

    Mautic's installer should do this, but fails silently (mautic#17126). Only correct for a schema of exactly this
    version.
    """
    if recorded() is None:
        record_all()
        return {"recorded": len(recorded() or ())}
    return {"recorded": 0}


def record_all() -> None:
    """Record all migrations of the serving tree as done."""
    for words in ([SYNC], ["doctrine:migrations:version", "--add", "--all"]):
        ended = console(*words)
        if ended.returncode:
            raise CtlError(f"{words[0]} ended with {ended.returncode}: {words_of(ended)}")


def migrate(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the new migrations of a closed tenant whose tree was swapped; a failed migration is an answer, not an error.

    If nothing is recorded, the old tree's migrations are recorded as done first. Migrations that a pre-check skips are
    recorded once all have succeeded. Request: seconds? (the time limit).

    Returns done, code, ran and skipped (versions), unregistered (how many recorded migrations have no file), rows
    {inserted, updated, deleted} (by the whole server meanwhile), seconds, output.
    """
    must_be_closed()
    if recorded() is None:
        if not BEFORE.is_dir():
            raise CtlError("no migration is recorded, and no old tree says which were done")
        _record_as_done(available(BEFORE))
    seconds = int(request.get("seconds") or SECONDS)
    before, rows, began = recorded() or set(), _rows(), time.monotonic()
    ended = console_for(seconds, "doctrine:migrations:migrate")
    took = round(time.monotonic() - began, 3)
    code, output = ended.returncode, (ended.stdout + ended.stderr).strip()
    if code == LATE:
        output += f"\nIt did not end within {seconds} seconds and was stopped."
    after, written = before, rows
    try:
        after, written = recorded() or set(), _rows()
        left = available(MAUTIC) - after
        if code == 0:
            _record_as_done(left)
    except CtlError as error:
        # A full disk stops MariaDB itself.
        code, output = code or 1, f"{output}\nThen {error}."
    return {
        "done": code == 0,
        "code": code,
        "ran": _short(after - before),
        "skipped": _short(left) if code == 0 else [],
        "unregistered": len(after - available(MAUTIC)),
        "rows": {name: max(0, number - rows[name]) for name, number in written.items()},
        "seconds": took,
        "output": masked(output[-LIMIT:], known_secrets()),
    }


def up_to_date(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether all migrations of the serving tree are recorded, and the exit code of Mautic's own check.

    Returns up_to_date (both say so), code, new (versions that are not recorded), unregistered (how many recorded
    migrations have no file).
    """
    done = recorded() or set()
    ended = console("doctrine:migrations:up-to-date")
    new = available(MAUTIC) - done
    return {
        "up_to_date": not new and ended.returncode == 0,
        "code": ended.returncode,
        "new": _short(new),
        "unregistered": len(done - available(MAUTIC)),
    }


def available(tree: Path) -> set[str]:
    """Return the names of a tree's migrations."""
    return {PREFIX + path.stem for path in (tree / "app/migrations").glob("Version*.php")}


def recorded() -> set[str] | None:
    """Return the names of recorded migrations, None if the table does not exist."""
    if not sql("SHOW TABLES LIKE 'migrations';", "mautic"):
        return None
    # MariaDB's client prints a backslash as two.
    return {row[0].replace("\\\\", "\\") for row in sql("SELECT version FROM migrations;", "mautic")}


def _record_as_done(versions: Iterable[str]) -> None:
    if recorded() is None:
        ended = console(SYNC)
        if ended.returncode:
            raise CtlError(f"{SYNC} ended with {ended.returncode}: {words_of(ended)}")
    values = ", ".join(f"({sql_text(version)}, UTC_TIMESTAMP())" for version in sorted(versions))
    if values:
        sql(f"INSERT IGNORE INTO migrations (version, executed_at) VALUES {values};", "mautic")


def _short(versions: Iterable[str]) -> list[str]:
    return sorted(re.sub(r".*Version", "", version) for version in versions)


def _rows() -> dict[str, int]:
    """Return {kind: rows} that the whole server has written since it was started."""
    told = dict(sql("SHOW GLOBAL STATUS LIKE 'Handler_%';"))
    return {name: int(told.get(counter, 0)) for name, counter in ROWS.items()}
