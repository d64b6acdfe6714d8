"""The `Lxd` protocol for a real server: combines its parts, and creates and copies instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from bot.lxd import entries
from bot.lxd.connection import LONG, SHORT, path_of
from bot.lxd.images import LxdImages
from bot.lxd.products import takes
from bot.lxd.project import LxdProject
from bot.lxd.protocol import AlreadyExists, LxdError
from bot.lxd.snapshots import LxdSnapshots
from bot.lxd.transfer import End, transfer
from bot.lxd.wire import NIC


class LxdGateway(LxdSnapshots, LxdProject, LxdImages):
    """One LXD server (or cluster, through any member), within the bot's own project. Safe for many threads.

    Each part is a class that builds on those below it: reading, working inside instances, changing them, snapshots,
    images, the project. This class creates and copies instances.

    Args:
        endpoint: the path of a Unix socket, or `https://host:8443`.
        certificate: paths of the client certificate and key, for https.
        server_certificate: path of the server's own certificate, which is then the only one that is trusted.
        timeout: seconds within which a single request must be answered.
    """

    def copy(
        self,
        source: str,
        name: str,
        *,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
    ) -> None:
        """See `Lxd.copy`."""
        doing = f"copy `{source}` to `{name}`"
        # LXD keeps profiles only if the request names them, and a cluster needs the architecture too.
        found = self.connection.get(path_of(*source.split("/", 1)), doing)
        # Place it beside its source: a clone shares blocks within one pool only, and each cluster member has its own.
        member = self._member
        if not member and self._clustered():
            member = self.instance(source.partition("/")[0]).location
        params = {"target": member} if member else {}

        def make(attached: Mapping[str, Mapping[str, str]]) -> None:
            body = {
                "name": name,
                "architecture": found["architecture"],
                "profiles": found["profiles"],
                "source": {"type": "copy", "source": source, "instance_only": True, "container_only": True},
                "config": dict(config),
                "devices": {key: dict(device) for key, device in attached.items()},
            }
            started = self.connection.json("post", "instances", doing, json=body, params=params, timeout=SHORT)
            self.connection.finish(started, doing, LONG)

        self._addressed(name, devices, member, make)

    def receive(
        self,
        source: Self,
        instance: str,
        name: str,
        *,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
        refresh: bool = False,
    ) -> None:
        """See `Lxd.receive`."""
        doing = f"copy `{instance}` to `{name}`"
        self.connection.settle(name, doing)
        found = source.connection.get(path_of(instance), doing)
        here, there = self.connection.product, source.connection.product
        if not takes(here, there):
            raise LxdError(f"{here} could not {doing}: it takes no containers from {there}.")
        member = self._member
        if refresh:
            # Where there is no copy LXD would copy everything, and on another member it would make a second copy.
            copy = self.instance(name)
            member = copy.location
            # The copy keeps its own interface: the source's address belongs to the source.
            devices = {key: device for key, device in copy.devices.items() if key == NIC} | dict(devices)
        elif name in [instance.name for instance in self.instances()]:
            raise AlreadyExists(f"{self.connection.product} could not {doing}: that name is already taken.")
        ends = source._end(entries.location(found)), self._end(member)

        def make(attached: Mapping[str, Mapping[str, str]]) -> None:
            body = {
                "name": name,
                "architecture": found["architecture"],
                "profiles": found["profiles"],
                "config": {key: value for key, value in found["config"].items() if not key.startswith("volatile.")}
                | dict(config),
                "devices": found["devices"] | {key: dict(device) for key, device in attached.items()},
            }
            transfer(*ends, instance, body, doing, member=member, refresh=refresh)
            if refresh:
                self.update(name, config, attached)

        self._addressed(name, devices, member, make)

    def _end(self, member: str) -> End:
        """Return this server as one end of a transfer; of a cluster, the member that is to send or receive."""
        server = self.server()
        addresses = [self.endpoint] if self.endpoint.startswith("https://") else [*server.addresses, ""]
        if member:
            addresses = [found.address for found in self.members() if found.name == member]
        return End(self.connection, server.certificate, addresses[0])

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """See `Lxd.create`."""
        fingerprint = len(image) >= 12 and set(image) <= set("0123456789abcdef")
        doing = f"create `{name}` from the image `{image}`"

        def make(attached: Mapping[str, Mapping[str, str]]) -> None:
            body = {
                "name": name,
                "type": "container",
                "source": {"type": "image", "fingerprint" if fingerprint else "alias": image},
                "profiles": [self._profile],
                "config": dict(config),
                "devices": {key: dict(device) for key, device in attached.items()},
            }
            self.connection.change("post", "instances", doing, body, params=self._there(), deadline=LONG)

        self._addressed(name, devices, self._member, make)
