"""Watches the machine while something is measured: memory, load and cores in use, by phase."""

from __future__ import annotations

import os
import re
import statistics
import threading
from pathlib import Path
from types import TracebackType

import pytest

LEAST, HIGHEST = 2 << 30, 40.0
"""The bytes of available memory below which, and the load above which, the run is given up."""
_PAUSE = 1.0


class Watch:
    """Records the available memory, the load and the cores in use, each second, under the name of a phase."""

    def __init__(self) -> None:
        self.phase = "creating"
        self._seen: dict[str, list[tuple[int, float, float]]] = {}
        self._over = threading.Event()
        self._suffers = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._kills = _kills()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        before = _ticks()
        while not self._over.wait(_PAUSE):
            memory, load, now = available(), os.getloadavg()[0], _ticks()
            busy = (now[0] - before[0]) / max(now[1] - before[1], 1)
            before = now
            self._seen.setdefault(self.phase, []).append((memory, load, busy))
            if memory < LEAST or load > HIGHEST:
                self._suffers = f"{memory >> 20} MiB are available, and the load is {load:.0f}"

    @property
    def killed(self) -> int:
        """How many processes the kernel has killed for lack of memory since the beginning."""
        return _kills() - self._kills

    def look(self) -> None:
        """End the run if the host is overloaded."""
        if self._suffers:
            pytest.fail(f"given up: {self._suffers}", pytrace=False)

    def told(self) -> dict[str, dict[str, float]]:
        """Return the figures of each phase."""
        return {
            phase: {
                "seconds": round(len(seen) * _PAUSE),
                "load_mean": round(statistics.mean(load for _, load, _ in seen), 2),
                "load_max": round(max(load for _, load, _ in seen), 2),
                "cores_busy": round((os.cpu_count() or 1) * statistics.mean(busy for _, _, busy in seen), 2),
                "min_available_mib": min(memory for memory, _, _ in seen) >> 20,
            }
            for phase, seen in self._seen.items()
        }


def available() -> int:
    """Return the bytes of memory that the kernel could give out now."""
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert found
    return int(found[1]) * 1024


def _kills() -> int:
    found = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.M)
    return int(found[1]) if found else 0


def _ticks() -> tuple[int, int]:
    """Return the ticks in which cores were busy, and all ticks, since the machine's start."""
    user, nice, system, idle, iowait, irq, soft, *_ = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    busy = user + nice + system + irq + soft
    return busy, busy + idle + iowait
