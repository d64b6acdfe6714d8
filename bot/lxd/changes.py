"""Changes instances on one LXD server: configuration, address, power, name, deletion."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from bot.lxd.bridge import unfiltered
from bot.lxd.connection import LONG, SHORT, path_of
from bot.lxd.inside import LxdInside
from bot.lxd.protocol import LxdError, PoolFull
from bot.lxd.refusals import AddressTaken, Held, Unheard
from bot.lxd.wire import NIC, given, kept, put_back, taken_off

FREEZING = 10
"""Seconds that freezing a container for a snapshot may take; after them the snapshot is taken of the running one."""
SOON = 10.0
"""Seconds within which a container that was asked to stop usually has."""
_WRITTEN = 0.1
"""Seconds that LXD's helper for files takes to have the pool write down its changes (20 to 75 ms were measured beside a
copy). A start that comes earlier ends the helper, which then checks only once a second whether it may end."""


class LxdChanges(LxdInside):
    """The part of `LxdGateway` that changes instances."""

    released = 60.0
    """Seconds for which snapshots of an instance that is to be deleted may still be sent to another host, for a copy
    that was given up."""

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """See `Lxd.update`."""
        with self._updates.alone(name):
            self._updates.lay_over(name, config, devices or {})

    # -- addresses and network ------------------------------------------------------------------------------------

    def _addressed(
        self,
        name: str,
        devices: Mapping[str, Mapping[str, str]],
        location: str,
        make: Callable[[Mapping[str, Mapping[str, str]]], None],
    ) -> None:
        """Create or change an instance, by `make`, with an address of its own on the bridge."""
        if NIC in devices:
            make(devices)
            return
        instances, refused = self.instances(), list[str]()
        while True:
            with self._bridge.address(name, instances, location, refused) as nic:
                try:
                    make({**devices, NIC: nic})
                    return
                except AddressTaken:
                    # An instance in another project has it.
                    refused.append(nic["ipv4.address"])

    def pin(self, name: str) -> str:
        """See `Lxd.pin`."""
        instances = self.instances()
        found = next((one for one in instances if one.name == name), None) or self.instance(name)
        if address := kept(found.config, found.devices):
            return address
        mac = found.config.get(f"volatile.{NIC}.hwaddr", "")
        if found.running and (nic := self._bridge.leased(mac, instances)):
            with suppress(AddressTaken):
                self.update(name, {}, {NIC: nic})
                return nic["ipv4.address"]
        self._addressed(name, {}, found.location, lambda devices: self.update(name, {}, devices))
        return given(self.instance(name))

    def isolate(self, name: str) -> None:
        """See `Lxd.isolate`."""
        instance = self.instance(name)
        if not put_back(instance.config):
            facts, device = taken_off(instance)
            self.update(name, facts, {NIC: device})

    def rejoin(self, name: str) -> None:
        """See `Lxd.rejoin`."""
        if before := put_back(self.instance(name).config):
            facts, device = before
            self.update(name, facts, {NIC: device})

    # -- power ----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """See `Lxd.start`."""
        since = time.monotonic() - self._changed.pop(name, -math.inf)
        time.sleep(max(0.0, _WRITTEN - since))
        refused: list[str] = []
        while True:
            try:
                body = {"action": "start", "timeout": -1}
                self.connection.change("put", f"{path_of(name)}/state", f"start `{name}`", body)
                return
            except AddressTaken:
                # LXD checks only at the start whether an address is taken.
                found = self.instance(name)
                # Keep all of them: between two neighbouring addresses that are both taken, it would alternate for ever.
                refused.append(given(found))
                self.update(name, {}, {NIC: None})
                with self._bridge.address(name, self.instances(), found.location, refused) as nic:
                    self.update(name, {}, {NIC: nic})
            except LxdError as error:
                if "already running" in str(error).lower():
                    # LXD says the same of a frozen instance.
                    self.thaw(name)
                    return
                filtered = dict(self.instance(name).devices.get(NIC, {}))
                if not unfiltered(error) or filtered.pop("security.ipv6_filtering", "") != "true":
                    raise
                filtered.pop("ipv6.address", None)
                self.update(name, {}, {NIC: filtered})

    def freeze(self, name: str) -> None:
        """Freeze an instance until `thaw`; raises LxdError where something inside prevents that."""
        self._set(name, "freeze")

    def thaw(self, name: str) -> None:
        """See `Lxd.thaw`."""
        if self.instance(name).status == "Frozen":
            self._set(name, "unfreeze")

    def _set(self, name: str, action: str) -> None:
        body = {"action": action, "timeout": FREEZING}
        self.connection.change("put", f"{path_of(name)}/state", f"{action} `{name}`", body, deadline=FREEZING)

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """See `Lxd.stop`."""
        body = {"action": "stop", "timeout": timeout, "force": force}

        def stop() -> None:
            self.connection.change("put", f"{path_of(name)}/state", f"stop `{name}`", body, deadline=timeout + SHORT)

        with _unless("already stopped"), ignoring_full_disk(lambda: self.instance(name).status == "Stopped"):
            try:
                stop()
            except Unheard:
                # The container stops all the same, or it is asked again.
                if not self._has_stopped(name):
                    stop()

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """See `Lxd.restart`."""
        body = {"action": "restart", "timeout": timeout, "force": False}
        try:
            self.connection.change("put", f"{path_of(name)}/state", f"restart `{name}`", body, deadline=timeout + SHORT)
        except AddressTaken:
            self.start(name)
        except Unheard:
            self.stop(name, timeout=timeout)
            self.start(name)

    def _has_stopped(self, name: str) -> bool:
        """Return whether an instance stops within SOON seconds."""
        give_up = time.monotonic() + SOON
        while self.instance(name).status != "Stopped":
            if time.monotonic() > give_up:
                return False
            time.sleep(0.2)
        return True

    # -- name and deletion ----------------------------------------------------------------------------------------

    def rename(self, name: str, new_name: str) -> None:
        """See `Lxd.rename`."""
        with ignoring_full_disk(lambda: new_name in [instance.name for instance in self.instances()]):
            self.connection.change("post", path_of(name), f"rename `{name}` to `{new_name}`", {"name": new_name})

    def delete(self, name: str) -> None:
        """See `Lxd.delete`."""
        self.connection.settle(name, f"delete `{name}`")
        end = time.monotonic() + self.released
        while True:
            try:
                self.connection.change("delete", path_of(name), f"delete `{name}`", deadline=LONG)
                return
            except Held as error:
                if not self.leftovers.remove_snapshots(name) and time.monotonic() > end:
                    if self.snapshots(name):
                        raise
                    raise self.leftovers.in_the_way(name) from error
            time.sleep(0.5)


@contextmanager
def ignoring_full_disk(done: Callable[[], bool]) -> Iterator[None]:
    """Ignore a full disk where the change was made all the same.

    After a change LXD records the instance's new state on the instance's own disk. What LXD undoes when that fails does
    not matter.
    """
    try:
        yield
    except PoolFull:
        if not done():
            raise


@contextmanager
def _unless(text: str) -> Iterator[None]:
    """Ignore a refusal that contains `text`, which says that the wish is already fulfilled."""
    try:
        yield
    except LxdError as error:
        if text not in str(error).lower():
            raise
