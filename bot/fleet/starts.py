"""Limits how many tenants of a host start at once, and sets the order in which they start after a reboot."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from bot.settings import CapacitySettings

PRIORITIES = {"sends": 6, "active": 4, "idle": 2}
"""LXD's start priority after a reboot; the highest starts first. The edge has 10, so that visitors see a maintenance
page meanwhile."""


class StartLimiter:
    """Limits how many starts begin on one host within a period, because a booting tenant keeps all cores busy.

    Args:
        most: the number of starts that may begin within `seconds`.
        seconds: the length of the period; 0: no limit.
        clock: a monotonic clock in seconds; `sleep` waits for a number of these seconds.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.most = most
        self.seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._begun: deque[float] = deque(maxlen=most)

    def wait(self, *, urgent: bool = False) -> None:
        """Wait for a turn. An `urgent` start, for which clients wait behind a maintenance page, takes one at once."""
        while (left := self._turn(urgent)) > 0:
            self._sleep(left)

    def _turn(self, urgent: bool) -> float:
        """Take a turn and return 0, or return the seconds until one may be free."""
        with self._lock:
            now = self._clock()
            if not urgent and len(self._begun) == self.most:
                left = self._begun[0] + self.seconds - now
                if left > 0:
                    return left
            self._begun.append(now)
            return 0.0


def boot(settings: CapacitySettings, kind: Literal["sends", "active", "idle"]) -> dict[str, str]:
    """Return the configuration that makes LXD start tenants after a reboot by priority, one after the other."""
    return {
        "boot.autostart.priority": str(PRIORITIES[kind]),
        "boot.autostart.delay": str(settings.start_delay),
    }
