"""Starts MariaDB, and waits until it answers.

On a full disk MariaDB neither starts nor fails: it looks for free space once a minute, for ever (`my_write` in its
source, flag MY_WAIT_IF_FULL). The client is offline meanwhile, so that is told after seconds.
"""

import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .disk import measure
from .system import ENVIRONMENT, FULL, CtlError, run

SOCKET = Path("/run/mysqld/mysqld.sock")
SYSTEMCTL = "systemctl"
PATIENCE = 300.0
"""Seconds that a start may take, with the end of the server before it: after a crash a large database is recovered."""
STARTS = 60.0
"""Seconds until a server that was started accepts connections."""
FULL_LIMIT = 15.0
"""Seconds for which the disk may be full: space that was just freed is not there at once on btrfs."""
NEEDED = 8 << 20
"""Bytes that MariaDB needs to start: its temporary tablespace has 4 MB."""


class _Space:
    """Watches the disk while MariaDB starts."""

    def __init__(self) -> None:
        self._full_since = 0.0

    def came_back(self) -> bool:
        """Return whether the disk was full, and no longer is. Raises CtlError if it is full for FULL_LIMIT."""
        now, was_full = time.monotonic(), bool(self._full_since)
        if measure({})["free"] >= NEEDED:
            self._full_since = 0.0
            return was_full
        self._full_since = self._full_since or now
        if now - self._full_since > FULL_LIMIT:
            raise CtlError(FULL)
        return False


def start_database(verb: str = "start", beside: Sequence[str] = ()) -> None:
    """Start MariaDB (`restart`: restart it), and the units `beside` it, and wait until it accepts connections.

    Raises CtlError if one of them does not start, and if the disk stays full.
    """
    if _failure(verb, *beside):
        # A server that waited for space ends once there is some.
        told = _failure("start", *beside)
        if told:
            raise CtlError(f"MariaDB did not start: {told}")
    await_database()


def _failure(verb: str, *beside: str) -> str:
    """Run systemctl for MariaDB and other units, and return its first error line, "" if all of them run."""
    starting = subprocess.Popen(
        [SYSTEMCTL, verb, "mariadb", *beside], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, cwd="/", env=ENVIRONMENT,
    )  # fmt: skip
    space, give_up = _Space(), time.monotonic() + PATIENCE
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                _, told = starting.communicate(timeout=1)
                return told.strip().partition("\n")[0] or "systemctl failed" if starting.returncode else ""
            if space.came_back():
                # It would look for space within a minute only. What it had begun is recovered at its next start.
                run(SYSTEMCTL, "kill", "--signal=KILL", "mariadb")
            if time.monotonic() > give_up:
                raise CtlError(f"MariaDB did not start within {PATIENCE:.0f} s")
    finally:
        if starting.poll() is None:
            starting.kill()
            starting.communicate()


def await_database(deadline: float = STARTS) -> None:
    """Wait until MariaDB accepts connections on its socket; raises CtlError after `deadline` seconds.

    Raises it sooner if the disk stays full.
    """
    space, began = _Space(), time.monotonic()
    looked = began
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(SOCKET))
                return
            except OSError:
                pass
        now = time.monotonic()
        if now > began + deadline:
            raise CtlError(f"MariaDB did not start within {deadline:.0f} s")
        if now > looked + 1:
            space.came_back()
            looked = now
        time.sleep(0.02)
