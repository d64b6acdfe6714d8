"""Tracks work in a tenant that is no operation, such as a console command: no operation starts meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class AtWork:
    """What is at work in which tenant. In memory alone: it ends with the process, and nothing of it is left over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doing: dict[str, str] = {}

    def on(self, tenant: str) -> str:
        """Return what is at work in a tenant, in words, "" when nothing is."""
        with self._lock:
            return self._doing.get(tenant, "")

    @contextmanager
    def take(self, tenant: str, doing: str) -> Iterator[str]:
        """Be at work in a tenant until the end; yields "", or what is at work there already, and then it is not taken.

        Take it first and look for operations then: who does it the other way round may miss one that is just queued.
        """
        with self._lock:
            before = self._doing.get(tenant, "")
            if not before:
                self._doing[tenant] = doing
        try:
            yield before
        finally:
            if not before:
                with self._lock:
                    del self._doing[tenant]
