"""Lays keys and devices over an instance: one writer of the bot at a time, and only over the version that was read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bot.lxd.connection import SHORT, LxdConnection, path_of
from bot.lxd.protocol import PoolFull
from bot.lxd.refusals import Busy, Stale


class Updates:
    """Changes the configuration of the instances of one server. Safe for many threads."""

    def __init__(self, connection: LxdConnection) -> None:
        self._lxd = connection
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Keep all other threads from changing this instance meanwhile."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield

    def lay_over(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None],
    ) -> Mapping[str, str]:
        """Lay keys and devices over an instance, for the version that was read; return the configuration before.

        None removes a key or device. The caller must be within `alone`.
        """
        doing = f"update `{name}`"
        end = time.monotonic() + SHORT
        while True:
            answer = self._lxd.request("get", path_of(name), doing)
            found = answer.json()["metadata"]
            if _is_laid(found, config, devices):
                # There is nothing to write, and a full disk would refuse a write.
                return dict(found["config"])
            body: dict[str, Any] = {
                "config": {key: value or "" for key, value in config.items()},
                "devices": {key: dict(device) for key, device in devices.items() if device},
            }
            verb = "patch"
            if any(device is None for device in devices.values()):
                # A patch adds and changes devices, but cannot remove one: write the whole instance.
                verb = "put"
                kept = {key: device for key, device in found["devices"].items() if key not in devices}
                laid = {key: value for key, value in {**found["config"], **config}.items() if value}
                body = {
                    **{key: found[key] for key in ("architecture", "profiles", "ephemeral", "description")},
                    "config": laid,
                    "devices": {**kept, **body["devices"]},
                }
            try:
                changed = self._lxd.json(
                    verb, path_of(name), doing, json=body, headers={"If-Match": answer.headers["ETag"]}
                )
                if changed["type"] == "async":
                    self._lxd.finish(changed, doing, SHORT)
            except PoolFull:
                # LXD applies a size that is too small all the same, and the caller has to know.
                if "root" in devices or not _is_laid(self._lxd.get(path_of(name), doing), config, devices):
                    raise
            except Stale:
                continue
            except Busy:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
                continue
            before: Mapping[str, str] = found["config"]
            return before


def _is_laid(
    found: Mapping[str, Any], config: Mapping[str, str | None], devices: Mapping[str, Mapping[str, str] | None]
) -> bool:
    """Return whether an instance already has these keys and devices."""
    same = all(found["config"].get(key, "") == (value or "") for key, value in config.items())
    return same and all(found["devices"].get(key) == device for key, device in devices.items())
