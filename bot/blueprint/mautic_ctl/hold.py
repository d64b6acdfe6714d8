"""`hold`: writes to the database wait while somebody takes a snapshot."""

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from .means import ENVIRONMENT, MAUTIC, asked, run, write

DEADLINE = 15.0
"""Seconds after which writes go on, whoever may have forgotten them."""


def hold(request: Mapping[str, Any]) -> dict[str, Any]:
    """Start a holder that goes on after this call, and say whether it holds.

    BACKUP STAGE, unlike FLUSH TABLES WITH READ LOCK, does not wait for long reads. Two holders wait for each other.
    """
    (files,) = asked(request, "files")
    # A snapshot puts on disk what is not there yet, and writes need not wait for what can be put there before.
    run("sync", "-f", str(MAUTIC))
    hearing, telling = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            os.close(hearing)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(nowhere, number)
            _hold(Path(f"{files}.go"), Path(f"{files}.out"), telling)
        finally:
            os._exit(0)
    os.close(telling)
    with open(hearing) as pipe:
        why = pipe.read()
    return {"held": why == "held", "why": why if why != "held" else ""}


def _hold(go: Path, out: Path, telling: int) -> None:
    """Hold from one session, which ends with this process, until `go` is there; then write to `out` how long it was."""
    session = subprocess.Popen(
        ["mariadb", "--batch", "--skip-column-names", "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    to, of, errors = cast(IO[str], session.stdin), cast(IO[str], session.stdout), cast(IO[str], session.stderr)

    def done(*statements: str) -> bool:
        """The client ends at its first error."""
        try:
            to.write("; ".join((*statements, "SELECT 'done';\n")))
            to.flush()
        except BrokenPipeError:
            return False
        return of.readline() == "done\n"

    if not done("SET SESSION lock_wait_timeout = 20"):
        why = "MariaDB does not answer"
    # What waits for others comes first, while commits still go on.
    elif not done(
        "BACKUP STAGE START", "SET SESSION lock_wait_timeout = 5", "BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL"
    ):
        why = _reason(errors.read())
    else:
        began = time.monotonic()
        held = done("SET SESSION lock_wait_timeout = 2", "BACKUP STAGE BLOCK_COMMIT")
        why = "held" if held else _reason(errors.read())
    os.write(telling, why.encode())
    os.close(telling)
    if why != "held":
        return
    while not go.exists() and time.monotonic() - began < DEADLINE:
        time.sleep(0.005)
    was_told = go.exists()
    if done("BACKUP STAGE END") and was_told:
        write(out, json.dumps({"seconds": round(time.monotonic() - began, 3)}), 0o600)


def _reason(said: str) -> str:
    """What MariaDB's error means for whoever wanted to hold."""
    number = re.search(r"ERROR (\d+)", said)
    if number and number[1] == "1205":
        return "MariaDB was too busy to let writes wait"
    return f"MariaDB could not let writes wait ({number[0] if number else 'it ended'}); is its disk full?"
