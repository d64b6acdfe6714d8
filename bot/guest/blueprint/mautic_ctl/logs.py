"""`logs`: returns the last lines of a log, with secrets masked."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .parameters import read_parameters
from .system import FPM, MAUTIC, CtlError, asked, run

MAUTICS = ("mautic_prod-*.php", "prod-*.php")
"""Mautic's two logs, one file per day each: its own entries, and all others (mail and other messages, the database)."""
FILES = {
    "mautic": (MAUTIC / "var/logs", MAUTICS),
    "nginx": (Path("/var/log/nginx"), ("error.log",)),
    "php": (Path("/var/log"), (f"{FPM}.log",)),
}
UNITS = {"mariadb": "mariadb", "cron": "cron"}
BEGINS = re.compile(r"\[\d{4}-\d\d-\d\d")
"""The beginning of an entry; a trace has lines such as `[stacktrace]`, which must not match."""
LIMIT = 60_000
SECRETIVE = re.compile(r"passw(or)?d|secret|token|api_?key|authorization|cookie|dsn|credential", re.IGNORECASE)
# No pattern may read a character more than a few times, whatever a line contains: a log holds what visitors send.
ASSIGNED = re.compile(
    rf"""((?:{SECRETIVE.pattern})[\w-]{{0,64}}["']?\s*(?:=>|[:=])\s*)(?:(?:bearer|basic)\s+)?("[^"]*"|'[^']*'|[^\s"',;&)}}\]]+)""",
    re.IGNORECASE,
)
IN_ADDRESS = re.compile(r"(://[^\s:/@]*):[^\s@/]+@")


def logs(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {text}: the last lines of one log, LIMIT characters at most. Raises CtlError for an unknown log.

    Request: what (a key of FILES or UNITS), lines.
    """
    what, lines = asked(request, "what", "lines")
    if what in UNITS:
        found = run(
            "journalctl", "-u", UNITS[what], "-n", str(int(lines)), "-o", "short-iso", "-q", "--no-pager"
        ).stdout
    elif what in FILES:
        folder, patterns = FILES[what]
        each = [_tail(sorted(folder.glob(pattern))[-2:]) for pattern in patterns]
        found = "\n".join((each[0] if len(each) == 1 else _by_time(each))[-int(lines) :])
    else:
        raise CtlError(f"there is no log {what}")
    return {"text": masked(found[-4 * LIMIT :], known_secrets())[-LIMIT:]}


def _tail(files: Iterable[Path]) -> list[str]:
    """Return the lines of files in order; of a long file only those in its last 4 * LIMIT bytes."""
    found: list[str] = []
    for path in files:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 4 * LIMIT))
            found += log.read().decode(errors="replace").splitlines()
    return found


def _by_time(logs: Iterable[Iterable[str]]) -> list[str]:
    """Merge several of Mautic's logs by the times of their entries; a trace stays with its entry."""
    entries: list[tuple[str, list[str]]] = []
    for log in logs:
        # Lines before the first entry are the rest of an earlier one.
        entries.append(("", []))
        for line in log:
            if BEGINS.match(line):
                entries.append((line.partition("]")[0], [line]))
            else:
                entries[-1][1].append(line)
    return [line for _, lines in sorted(entries, key=lambda entry: entry[0]) for line in lines]


def known_secrets() -> list[str]:
    """Return the secret values in Mautic's own configuration, [] if it cannot be read."""
    with suppress(CtlError):
        return [
            value
            for key, value in read_parameters().items()
            if isinstance(value, str) and len(value) >= 6 and SECRETIVE.search(key)
        ]
    return []


def words_of(ended: "subprocess.CompletedProcess[str]", lines: int = 3) -> str:
    """Return a short message of a failed Mautic command, without secrets: the first error lines, or the last output."""
    wrong, said = ([line.strip() for line in of.splitlines() if line.strip()] for of in (ended.stderr, ended.stdout))
    return masked(" / ".join(wrong[:lines] or said[-lines:]), known_secrets())


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a text with these secrets, and everything that looks like a secret, replaced with `***`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return IN_ADDRESS.sub(r"\1:***@", ASSIGNED.sub(r"\1***", text))
