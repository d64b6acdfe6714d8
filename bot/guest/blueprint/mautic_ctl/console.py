# ruff: noqa: S608 - SQL is made of constants
"""`console`: runs one of Mautic's own commands; the bot has checked before that the command is allowed."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from .jobs import SENDERS
from .logs import known_secrets, masked
from .outbound import A_HIT, OFF
from .system import BEATS, CLOSED, CRONTAB, ENVIRONMENT, MAUTIC, PROGRAM, CtlError, asked, sql

LIMIT = 20_000
SECONDS = 300
"""Seconds that a person waits for a command."""
SPARE = 15.0
"""Seconds within which a command that is stopped after SECONDS ends; `timeout` kills it after ten."""
FAILED = f"SELECT id FROM messenger_messages WHERE queue_name = 'failed' AND NOT ({A_HIT}) ORDER BY id LIMIT 500;"
_RUNS, _LATE = 75, 124
"""Exit codes of flock (the lock is taken) and of timeout (the time is over)."""


def run_console(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a command as cron would: under the job's own lock, and not in a closed tenant.

    Request: words. Returns code and output. Raises CtlError when the tenant is closed, outbound mail is off and the
    command sends, the command runs already, or it takes longer than SECONDS. It is stopped then; a job that sends goes
    on for as long as its schedule would let it, because the rest of its batch would never be sent.
    """
    (words,) = asked(request, "words")
    if CLOSED.exists():
        raise CtlError("it is closed, and nothing may be sent or changed until it is opened")
    if OFF.exists() and words[0] in (*SENDERS, "messenger:failed:retry"):
        raise CtlError("its outbound mail is off: nothing is sent until `/mautic mail <tenant> send` or `drop` is done")
    job = re.search(rf"^[^#].* mautic-cron \d+ (\d+) {re.escape(words[0])}(.*)$", CRONTAB.read_text(), re.MULTILINE)
    options = [option for option in (job[2].split() if job else []) if option not in words]
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
    limit = int(job[1]) if job and words[0] in SENDERS else SECONDS
    php = ["timeout", "--kill-after=10", str(limit), PROGRAM, str(MAUTIC / "bin/console")]
    code, said = _run([*lock, *php, *words, *options, "-n", "--no-ansi"])
    if code is None:
        raise CtlError(
            f"{words[0]} takes longer than {SECONDS} seconds. It goes on by itself, as a run of its schedule does"
        )
    if code == _RUNS:
        raise CtlError(f"{words[0]} runs already; try again when that run has ended")
    if code == _LATE:
        raise CtlError(f"{words[0]} did not end within {limit} seconds and was stopped")
    return {"code": code, "output": masked(said[-4 * LIMIT :], known_secrets())[-LIMIT:]}


def _run(argv: Sequence[str]) -> tuple[int | None, str]:
    """Run a program as www-data, and return its exit code, None if it goes on, and what it printed."""
    # In memory, as the disk may be full; a pipe would break under a program that goes on.
    with os.fdopen(os.memfd_create("console"), "w+b") as said:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, user="www-data", group="www-data",
            extra_groups=[], start_new_session=True, cwd="/", env=ENVIRONMENT,
        )  # fmt: skip
        try:
            code = process.wait(SECONDS + SPARE)
        except subprocess.TimeoutExpired:
            # It outlives this process, so Popen need not warn that nobody waits for it.
            process.returncode = 0
            return None, ""
        said.seek(0)
        return code, said.read().decode(errors="replace").strip()
