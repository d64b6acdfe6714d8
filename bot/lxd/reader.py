"""Reads from one LXD server: the server itself, its cluster, its pool, and its instances."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from bot.lxd import entries
from bot.lxd.bridge import Bridge
from bot.lxd.connection import SHORT, LxdConnection, path_of
from bot.lxd.last_known import LastKnown
from bot.lxd.leftovers import Leftovers
from bot.lxd.products import called
from bot.lxd.protocol import (
    FullInstance,
    Instance,
    InstanceState,
    LxdError,
    LxdUnavailable,
    Member,
    PoolSpace,
    Resources,
    Server,
    Snapshot,
)
from bot.lxd.updates import Updates


class LxdReader:
    """The part of `LxdGateway` that reads, and the base of all its other parts.

    `connection` makes requests that the protocol has no method for; `leftovers` removes what interrupted calls left on
    the server.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        project: str = "mautic-ops",
        pool: str = "mautic-ops",
        network: str = "mopsbr0",
        profile: str = "mautic-ops",
        certificate: tuple[str, str] | None = None,
        server_certificate: str | None = None,
        timeout: float = 15.0,
    ) -> None:
        if len(network) > 15:
            raise LxdError(f"The bridge name `{network}` is longer than the 15 characters that Linux allows.")
        self.endpoint = endpoint
        self.connection = LxdConnection(
            endpoint,
            project=project,
            pool=pool,
            certificate=certificate,
            server_certificate=server_certificate,
            timeout=timeout,
        )
        self._project = project
        self._pool = pool
        self._network = network
        self._profile = profile
        self._bridge = Bridge(self.connection, network, profile)
        self._member = ""
        self.leftovers = Leftovers(self.connection, project, pool)
        self._updates = Updates(self.connection)
        self._memory = LastKnown()
        # By instance: when the bot last made a request about its files (`time.monotonic`).
        self._changed: dict[str, float] = {}

    # -- the server ---------------------------------------------------------------------------------------------

    def server(self) -> Server:
        """See `Lxd.server`."""
        info = self.connection.get("", "describe the server", self._there(), project=False)
        environment = info.get("environment")
        if not environment:
            raise LxdUnavailable(
                f"{self.connection.product} at {self.endpoint} does not trust this bot yet: "
                "add its client certificate there."
            )
        return Server(
            name=environment["server_name"],
            version=environment["server_version"],
            product=called(environment["server"]).name,
            extensions=frozenset(info["api_extensions"]),
            clustered=environment.get("server_clustered", False),
            certificate=environment["certificate"],
            addresses=tuple(f"https://{address}" for address in environment["addresses"]),
        )

    def subnet(self) -> str:
        """See `Lxd.subnet`."""
        return self._bridge.subnet()

    def isolates_tenants(self) -> bool:
        """See `Lxd.isolates_tenants`."""
        return self._bridge.isolates_tenants()

    def members(self) -> list[Member]:
        """See `Lxd.members`."""
        if not self._clustered():
            return []
        found = self.connection.get("cluster/members", "list the cluster's members", {"recursion": "1"}, project=False)
        members = (
            Member(entry["server_name"], entry["url"], entry["status"] == "Online", entry["message"]) for entry in found
        )
        return sorted(members, key=lambda member: member.name)

    def at(self, member: str) -> Self:
        """See `Lxd.at`."""
        # Both share the connection and the locks of updates.
        there = copy.copy(self)
        there._member = member
        return there

    def _clustered(self) -> bool:
        """Return whether the server is part of a cluster, as it said when the connection was made."""
        with self.connection.words("describe the server"):
            return bool(self.connection.connected().host_info["environment"].get("server_clustered", False))

    def _there(self) -> dict[str, str]:
        return {"target": self._member} if self._member else {}

    def pool(self) -> PoolSpace:
        """See `Lxd.pool`."""
        path = f"storage-pools/{self._pool}/resources"
        found = self.connection.get(path, f"measure the pool `{self._pool}`", self._there(), project=False)
        return PoolSpace(used=found["space"]["used"], total=found["space"]["total"])

    def resources(self) -> Resources:
        """See `Lxd.resources`. Servers older than the extension `resources_load` report no load."""
        began = time.monotonic()
        found = self.connection.get("resources", "measure the host's memory", self._there(), project=False)
        memory, load = found["memory"], found.get("load") or {}
        return Resources(
            total=memory["total"],
            used=memory["used"],
            cores=found["cpu"]["total"],
            load=load.get("Average1Min"),
            seconds=time.monotonic() - began,
        )

    # -- reading instances --------------------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """See `Lxd.instances`."""
        found = self.connection.get("instances", "list the instances", params={"recursion": "1"})
        return sorted(self._without_gaps(found), key=lambda instance: instance.name)

    def instance(self, name: str) -> Instance:
        """See `Lxd.instance`."""
        return entries.instance(self.connection.get(path_of(name), f"read `{name}`"))

    def states(self) -> dict[str, InstanceState]:
        """See `Lxd.states`."""
        return {whole.instance.name: whole.state for whole in self.full_instances()}

    def state(self, name: str) -> InstanceState:
        """See `Lxd.state`."""
        return entries.state(self.connection.get(f"{path_of(name)}/state", f"read the state of `{name}`"))

    def full_instances(self) -> list[FullInstance]:
        """See `Lxd.full_instances`. LXD reports no sizes of snapshots here; `snapshots` does."""
        # This takes long on a big fleet.
        doing = "read the instances"
        found = self.connection.json("get", "instances", doing, params={"recursion": "2"}, timeout=SHORT)["metadata"]
        instances = self._without_gaps(found)
        return sorted(map(entries.full_instance, instances, found), key=lambda whole: whole.instance.name)

    def snapshots(self, name: str) -> list[Snapshot]:
        """See `Lxd.snapshots`."""
        found = self.connection.get(
            f"{path_of(name)}/snapshots", f"list the snapshots of `{name}`", params={"recursion": "1"}
        )
        # LXD lists them in order of creation, which the sort keeps for those of the same second.
        return sorted(map(entries.snapshot, found), key=lambda snapshot: snapshot.created)

    def _without_gaps(self, found: Iterable[Mapping[str, Any]]) -> list[Instance]:
        return self._memory.without_gaps([entries.listed(entry) for entry in found], self.connection.product)
