# ruff: noqa: S608 - every value in SQL goes through sql_text(), or is a constant
"""`record`, `migrate`, `up_to_date`: Mautic's migrations. What ran is read in the table that records them, not in what
is said.
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
"""Makes the table."""
PREFIX = "Mautic\\Migrations\\"
SECONDS = 3600
"""What a migration of a large client may take."""
LIMIT = 20_000
ROWS = {"inserted": "Handler_write", "updated": "Handler_update", "deleted": "Handler_delete"}
"""What MariaDB counts of its whole work."""
LATE = 124
"""Exit code of timeout."""


def record(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Record the migrations of the tree that serves as done where nothing is recorded: Mautic's installer means to, and
    fails silently (mautic#17126). Only of a schema that is of this very version.
    """
    if recorded() is None:
        record_all()
        return {"recorded": len(recorded() or ())}
    return {"recorded": 0}


def record_all() -> None:
    """Record all migrations of the tree that serves as done."""
    for words in ([SYNC], ["doctrine:migrations:version", "--add", "--all"]):
        ended = console(*words)
        if ended.returncode:
            raise CtlError(f"{words[0]} ended with {ended.returncode}: {words_of(ended)}")


def migrate(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run what is new, of a closed tenant whose tree was swapped; a migration that fails is an answer, too.

    Where nothing is recorded, those of the old tree are recorded first. What a pre-check skips is recorded once all
    have ended well. Asked: seconds? that it may take.

    Returns done, code, ran and skipped (versions), unregistered (how many no file is there of), rows {inserted,
    updated, deleted} by all of the database meanwhile, seconds, output.
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
        # A full disk ends MariaDB itself.
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
    """Say whether all migrations of the tree that serves are recorded, and what Mautic itself says to it (`code`)."""
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
    """Return the names that are recorded; None: there is no table that could record any."""
    if not sql("SHOW TABLES LIKE 'migrations';", "mautic"):
        return None
    # The client prints a backslash as two.
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
    """Rows that the whole database has written since it was started."""
    told = dict(sql("SHOW GLOBAL STATUS LIKE 'Handler_%';"))
    return {name: int(told.get(counter, 0)) for name, counter in ROWS.items()}
