"""`logs`: the last lines of a log, without the secrets that may stand in them."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .parameters import read_parameters
from .system import FPM, MAUTIC, CtlError, asked, run

MAUTICS = ("mautic_prod-*.php", "prod-*.php")
"""Mautic's two logs, each a file a day: of what is its own, and of all else (mail and other messages, the database)."""
FILES = {
    "mautic": (MAUTIC / "var/logs", MAUTICS),
    "nginx": (Path("/var/log/nginx"), ("error.log",)),
    "php": (Path("/var/log"), (f"{FPM}.log",)),
}
UNITS = {"mariadb": "mariadb", "cron": "cron"}
BEGINS = re.compile(r"\[\d{4}-\d\d-\d\d")
"""What an entry begins with; a trace has lines as `[stacktrace]`."""
LIMIT = 60_000
SECRETIVE = re.compile(r"passw(or)?d|secret|token|api_?key|authorization|cookie|dsn|credential", re.IGNORECASE)
# No pattern may look at a character more than a few times, whatever stands in a line: a log holds what visitors send.
ASSIGNED = re.compile(
    rf"""((?:{SECRETIVE.pattern})[\w-]{{0,64}}["']?\s*(?:=>|[:=])\s*)(?:(?:bearer|basic)\s+)?("[^"]*"|'[^']*'|[^\s"',;&)}}\]]+)""",
    re.IGNORECASE,
)
IN_ADDRESS = re.compile(r"(://[^\s:/@]*):[^\s@/]+@")


def logs(request: Mapping[str, Any]) -> dict[str, Any]:
    """Read the last lines of one log."""
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
    """The lines of files, as one; of a long file those of its last part."""
    found: list[str] = []
    for path in files:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 4 * LIMIT))
            found += log.read().decode(errors="replace").splitlines()
    return found


def _by_time(logs: Iterable[Iterable[str]]) -> list[str]:
    """Several of Mautic's logs as one, by the moments that entries begin with; a trace stays with its entry."""
    entries: list[tuple[str, list[str]]] = []
    for log in logs:
        # What stands before the first entry is the rest of one.
        entries.append(("", []))
        for line in log:
            if BEGINS.match(line):
                entries.append((line.partition("]")[0], [line]))
            else:
                entries[-1][1].append(line)
    return [line for _, lines in sorted(entries, key=lambda entry: entry[0]) for line in lines]


def known_secrets() -> list[str]:
    """The values that Mautic's own configuration keeps secret."""
    with suppress(CtlError):
        return [
            value
            for key, value in read_parameters().items()
            if isinstance(value, str) and len(value) >= 6 and SECRETIVE.search(key)
        ]
    return []


def words_of(ended: "subprocess.CompletedProcess[str]", lines: int = 3) -> str:
    """Return what a command of Mautic's that failed said, in short, without secrets: of an error its beginning."""
    wrong, said = ([line.strip() for line in of.splitlines() if line.strip()] for of in (ended.stderr, ended.stdout))
    return masked(" / ".join(wrong[:lines] or said[-lines:]), known_secrets())


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return IN_ADDRESS.sub(r"\1:***@", ASSIGNED.sub(r"\1***", text))
