"""Tracks work in a tenant outside operations, such as a console command: no operation starts meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TenantActivity:
    """The work in progress in each tenant. Kept in memory only, so that nothing is left over when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doing: dict[str, str] = {}

    def on(self, tenant: str) -> str:
        """Return what is in progress in a tenant, in words; "" when nothing is."""
        with self._lock:
            return self._doing.get(tenant, "")

    @contextmanager
    def take(self, tenant: str, doing: str) -> Iterator[str]:
        """Mark a tenant as being worked on within the `with` block and yield "", unless other work is in progress.

        In that case yield the words for the other work and mark nothing. Callers take the tenant first and look for
        operations afterwards: the other way round they may miss an operation that is just being queued.
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
