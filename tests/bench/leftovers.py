"""Takes away what a run has made, also where the run is killed: a process of its own waits for its end."""

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
    """Meanwhile be waited for; a run that comes to its end here has taken everything away by itself."""
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
    """Wait for the end of who began this; where it was killed, end its processes and take away its server."""
    if sys.stdin.read() == "done":
        return
    place = real_lxd.LXD_PLACE
    place.folder.mkdir(exist_ok=True)
    with (place.folder / "in-use").open("w") as in_use:
        give_up = time.monotonic() + _SECONDS
        # `make` above it may take a moment to end.
        while time.monotonic() < give_up:
            own.end_killed_runs()
            if real_lxd.cleared(place, in_use):
                return
            time.sleep(1)


if __name__ == "__main__":
    wait_and_clear_up()
