"""How tenants are started: so many of a host at once, and after a reboot in which order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from bot.settings import CapacitySettings

PRIORITIES = {"sends": 6, "active": 4, "idle": 2}
"""What LXD starts first after a reboot: the highest. The edge has 10, so that visitors see a polite page meanwhile."""


class Starts:
    """Lets at most so many starts of one host begin within so many seconds: a boot keeps all its cores busy.

    Args:
        most: how many.
        seconds: within which; 0: there is no limit.
        clock: seconds that never go back, and `sleep` waits for so many of them.
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
        """Wait for a turn; who is `urgent`, as clients wait for it behind a closed page, takes one at once."""
        while (left := self._turn(urgent)) > 0:
            self._sleep(left)

    def _turn(self, urgent: bool) -> float:
        """Take a turn, or say in how many seconds there may be one."""
        with self._lock:
            now = self._clock()
            if not urgent and len(self._begun) == self.most:
                left = self._begun[0] + self.seconds - now
                if left > 0:
                    return left
            self._begun.append(now)
            return 0.0


def boot(settings: CapacitySettings, kind: Literal["sends", "active", "idle"]) -> dict[str, str]:
    """Return the configuration by which LXD starts a tenant in its turn, one after the other."""
    return {
        "boot.autostart.priority": str(PRIORITIES[kind]),
        "boot.autostart.delay": str(settings.start_delay),
    }
