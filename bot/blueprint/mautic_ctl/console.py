"""`console`: one of Mautic's own commands, which the bot has found to be allowed."""

import fcntl
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from .logs import known_secrets, masked
from .means import BEATS, CRONTAB, SEAL, CtlError, asked, console

LIMIT = 20_000
SECONDS = 300


def run_console(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run it as cron would: under the job's own lock, and not in a tenant that is closed."""
    (words,) = asked(request, "words")
    if SEAL.exists():
        raise CtlError("it is closed, and nothing may be sent or changed until it is opened")
    job = re.search(rf"^[^#].* mautic-cron \d+ \d+ {re.escape(words[0])}(.*)$", CRONTAB.read_text(), re.MULTILINE)
    options = [option for option in (job[1].split() if job else []) if option not in words]
    with (BEATS / f"{words[0].replace(':', '_')}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CtlError(f"{words[0]} runs already; its schedule has started it") from None
        try:
            ended = console(*words, *options, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise CtlError(f"{words[0]} did not end within {SECONDS} seconds and was stopped") from None
    said = (ended.stdout + ended.stderr).strip()
    return {"code": ended.returncode, "output": masked(said, known_secrets())[-LIMIT:]}
