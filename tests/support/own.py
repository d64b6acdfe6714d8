"""Isolates the suite: it reads no configuration of the person who runs it, and ends what a killed run left behind.

Every process that a run starts has the run's mark in its environment. So the next run finds, and ends, the processes of
a run that could not clean up (after `kill -9` of pytest, or of the `make` that started it), and no others.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "MAUTIC_OPS_TEST_RUN"
"""Names the run of a process: pid and start time of what ends the run, `make` (at first its pid alone) or pytest."""
FOREIGN = ("MAUTIC_OPS_", "SLACK_", "LXD_", "INCUS_", "WORKSPACE_")
OURS = "MAUTIC_OPS_TEST_"
"""The prefix of variables for the suite itself."""
_DAEMON = {b"LXD_DIR", b"INCUS_DIR", b"MAUTIC_OPS_LAB"}
_SECONDS = 30


def keep_to_it() -> None:
    """Delete the variables for bots, Slack and LXD from the environment, and set the mark for this run's children."""
    for name in set(os.environ):
        if name.startswith(FOREIGN) and not name.startswith(OURS):
            del os.environ[name]
    pid, _, start = os.environ.get(MARK, str(os.getpid())).partition(":")
    os.environ[MARK] = f"{pid}:{start or _start(int(pid))}"
    os.environ["PYTHONPATH"] = str(ROOT)


def leave_the_checkout() -> None:
    """Change to an empty folder: `./mautic-ops.toml` and `./.state` may be those of a bot that people rely on."""
    empty = tempfile.mkdtemp(prefix="mautic-ops-test-")
    atexit.register(shutil.rmtree, empty, ignore_errors=True)
    os.chdir(empty)


def end_killed_runs() -> list[int]:
    """Kill the processes of runs that are over; return their pids.

    LXD's daemons are left to `local_lxd.remove` and to the lab's `clean`, which remove their mounts and bridges too.
    """
    seen = {pid: run for pid, run in _marked().items() if not _lives(run)}
    if seen:
        # Looked at twice, as a process that has just begun may not be what it seems.
        time.sleep(0.5)
        again = _marked()
        seen = {pid: run for pid, run in seen.items() if again.get(pid) == run and not _lives(run)}
    left = list(seen)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    give_up = time.monotonic() + _SECONDS
    while any(_start(pid) for pid in left):
        assert time.monotonic() < give_up, f"what a killed run left does not end: {left}"
        time.sleep(0.02)
    return left


def _marked() -> dict[int, str]:
    """Return the runs of all marked processes by pid, except in containers, where marks name other pids."""
    found, here = {}, os.readlink("/proc/self/ns/pid")
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if os.readlink(path.with_name("ns") / "pid") != here:
                continue
            words = dict(word.partition(b"=")[::2] for word in path.read_bytes().split(b"\0"))
            if MARK.encode() in words and not words.keys() & _DAEMON:
                found[int(path.parent.name)] = words[MARK.encode()].decode()
    return found


def _lives(run: str) -> bool:
    pid, _, start = run.partition(":")
    # Processes that `make` starts have its pid alone, until pytest has started.
    return bool(_start(int(pid))) and start in ("", _start(int(pid)))


def _start(pid: int) -> str:
    """Return when a process was started, in ticks since boot; "" if there is none, or only a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]
