"""`backup_lock`: makes writes to the database wait while the bot takes a snapshot."""

import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, cast

from .system import ENVIRONMENT, MAUTIC, run
from .wire import Wire

DEADLINE = 15.0
"""Seconds after which writes continue even if nobody releases the lock."""
LATE = 45.0
"""Seconds to wait for the bot after that: its snapshot may take longer."""


def backup_lock(_request: Mapping[str, Any], wire: Wire) -> dict[str, Any]:
    """Take the backup lock, report it, and release it when the bot sends a line, disconnects, or DEADLINE is over.

    First sends {held, why}; then returns `kept` (the lock was held until the bot's line came) and the `seconds` that
    writes waited. If the lock cannot be taken, returns only held (False) and why.

    BACKUP STAGE, unlike FLUSH TABLES WITH READ LOCK, does not wait for long reads. A second lock waits for the first.
    One session of MariaDB's client holds the lock; the session ends with this process.
    """
    # A snapshot first writes cached data to disk; writing it now shortens the time that writes wait.
    run("sync", "-f", str(MAUTIC))
    session = subprocess.Popen(
        ["mariadb", "--batch", "--skip-column-names", "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        return _held(session, wire)
    finally:
        with suppress(BrokenPipeError), session:
            pass


def _held(session: "subprocess.Popen[str]", wire: Wire) -> dict[str, Any]:
    to, of, errors = cast(IO[str], session.stdin), cast(IO[str], session.stdout), cast(IO[str], session.stderr)

    def done(*statements: str) -> bool:
        """Execute statements and return whether they succeeded; the client ends at its first error."""
        try:
            to.write("; ".join((*statements, "SELECT 'done';\n")))
            to.flush()
        except BrokenPipeError:
            return False
        return of.readline() == "done\n"

    if not done("SET SESSION lock_wait_timeout = 20"):
        why = "MariaDB does not answer"
    # The stages that wait for other sessions come first, while commits still continue.
    elif not done(
        "BACKUP STAGE START", "SET SESSION lock_wait_timeout = 5", "BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL"
    ):
        why = _reason(errors.read())
    else:
        began = time.monotonic()
        held = done("SET SESSION lock_wait_timeout = 2", "BACKUP STAGE BLOCK_COMMIT")
        why = "held" if held else _reason(errors.read())
    if why != "held":
        return {"held": False, "why": why}
    wire.tell({"ok": True, "held": True, "why": ""})
    in_time = wire.goes_on(DEADLINE)
    ended = done("BACKUP STAGE END")
    seconds = round(time.monotonic() - began, 3)
    if not in_time:
        # The bot's line is still to come, and must not be taken for its receipt of the answer.
        wire.goes_on(LATE)
    return {"kept": ended and in_time, "seconds": seconds}


def _reason(said: str) -> str:
    """Return a sentence for people that explains MariaDB's error."""
    number = re.search(r"ERROR (\d+)", said)
    if number and number[1] == "1205":
        return "MariaDB was too busy to let writes wait"
    return f"MariaDB could not let writes wait ({number[0] if number else 'it ended'}); is its disk full?"
