# ruff: noqa: S608 - SQL is made of constants
"""`console`: runs one of Mautic's own commands; the bot has checked before that the command is allowed."""

import re
from collections.abc import Mapping
from typing import Any

from .jobs import SENDERS
from .logs import known_secrets, masked
from .outbound import A_HIT, OFF
from .system import BEATS, CLOSED, CRONTAB, MAUTIC, PROGRAM, CtlError, asked, run, sql

LIMIT = 20_000
SECONDS = 300
FAILED = f"SELECT id FROM messenger_messages WHERE queue_name = 'failed' AND NOT ({A_HIT}) ORDER BY id LIMIT 500;"
_RUNS, _LATE = 75, 124
"""Exit codes of flock (the lock is taken) and of timeout (the time is over)."""


def run_console(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a command as cron would: under the job's own lock, and not in a closed tenant.

    Request: words. Returns code and output. Raises CtlError when the tenant is closed, outbound mail is off and the
    command sends, the command runs already, or it takes longer than SECONDS.
    """
    (words,) = asked(request, "words")
    if CLOSED.exists():
        raise CtlError("it is closed, and nothing may be sent or changed until it is opened")
    if OFF.exists() and words[0] in (*SENDERS, "messenger:failed:retry"):
        raise CtlError("its outbound mail is off: nothing is sent until `/mautic mail <tenant> send` or `drop` is done")
    job = re.search(rf"^[^#].* mautic-cron \d+ \d+ {re.escape(words[0])}(.*)$", CRONTAB.read_text(), re.MULTILINE)
    options = [option for option in (job[1].split() if job else []) if option not in words]
    if words == ["messenger:failed:retry"]:
        # Without ids the command asks about each message, and nobody could answer; with ids and --force it does not.
        failed = [row[0] for row in sql(FAILED, "mautic")]
        if not failed:
            return {"code": 0, "output": "No mail is in the queue of failed ones."}
        options = [*failed, "--force"]
    # Not as root: the job could not open a lock file of root's and would never run again.
    lock = [
        "flock",
        "--nonblock",
        "--conflict-exit-code",
        str(_RUNS),
        str(BEATS / f"{words[0].replace(':', '_')}.lock"),
    ]
    php = ["timeout", "--kill-after=10", str(SECONDS), PROGRAM, str(MAUTIC / "bin/console")]
    ended = run(*lock, *php, *words, *options, "-n", "--no-ansi", user="www-data", timeout=SECONDS + 20)
    if ended.returncode == _RUNS:
        raise CtlError(f"{words[0]} runs already; its schedule has started it")
    if ended.returncode == _LATE:
        raise CtlError(f"{words[0]} did not end within {SECONDS} seconds and was stopped")
    said = (ended.stdout + ended.stderr).strip()
    return {"code": ended.returncode, "output": masked(said[-4 * LIMIT :], known_secrets())[-LIMIT:]}
