"""Removes what a run has created even if the run is killed: a separate process waits for its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import own, real_lxd

_SECONDS = 60.0


@contextmanager
def cleared_up() -> Iterator[None]:
    """Have a separate process wait for this run; a run that gets to the end has removed everything by itself."""
    environment = {name: value for name, value in os.environ.items() if name != own.MARK}
    waiting = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.leftovers"], stdin=subprocess.PIPE, env=environment, start_new_session=True
    )
    assert waiting.stdin
    try:
        yield
    finally:
        waiting.stdin.write(b"done")
        waiting.stdin.close()
        waiting.wait(10)


def wait_and_clear_up() -> None:
    """Wait for the end of the run that started this; if it was killed, end its processes and remove its server."""
    if sys.stdin.read() == "done":
        return
    place = real_lxd.LXD_PLACE
    place.folder.mkdir(exist_ok=True)
    with (place.folder / "in-use").open("w") as in_use:
        give_up = time.monotonic() + _SECONDS
        # The `make` that started the run may take a moment to end.
        while time.monotonic() < give_up:
            own.end_killed_runs()
            if real_lxd.cleared(place, in_use):
                return
            time.sleep(1)


if __name__ == "__main__":
    wait_and_clear_up()
