"""Creates and removes the bot's own part of one LXD server: its project, pool, bridge and profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bot.lxd.bridge import PROFILE
from bot.lxd.changes import LxdChanges
from bot.lxd.connection import SHORT
from bot.lxd.protocol import AlreadyExists, NotFound
from bot.lxd.wire import NIC, bounds


class LxdProject(LxdChanges):
    """The part of `LxdGateway` that creates what the bot needs on a server, and removes it."""

    def ensure_project(self, *, pool_driver: str, pool_size: str, subnet: str, ways: Sequence[str] = ()) -> None:
        """See `Lxd.ensure_project`."""
        server = self.server()
        cluster = self.members()
        members = [member.name for member in cluster]
        size = {} if pool_driver == "dir" else {"size": pool_size}
        self._ensure("storage-pools", {"name": self._pool, "driver": pool_driver}, members, each=size)
        if not (new := self._lacks("networks", self._network)):
            subnet = self.subnet()
        bounds(subnet)
        acl = None
        if "network_bridge_acl" in server.extensions:
            if new:
                # Rules left by a deleted bridge may be for another subnet.
                with suppress(NotFound):
                    self.connection.request(
                        "delete", f"network-acls/{self._network}", "remove old rules", project=False
                    )
            acl = self._bridge.acl(subnet, [*server.addresses, *(member.address for member in cluster)], ways)
            self._ensure("network-acls", acl)
        config = self._bridge.config(subnet, acl=acl is not None)
        self._ensure("networks", {"name": self._network, "type": "bridge"}, members, config=config)
        features = {
            "features.images": "true",
            "features.profiles": "true",
            "features.storage.volumes": "true",
            "features.networks": "false",
        }
        self._ensure("projects", {"name": self._project, "config": features})
        root = {"type": "disk", "path": "/", "pool": self._pool}
        devices = {"root": root, NIC: self._bridge.device()}
        self._ensure("profiles", {"name": self._profile, "config": PROFILE, "devices": devices}, project=True)
        self._bridge.align(acl)

    def remove_project(self) -> None:
        """Remove what `ensure_project` created, with every instance and image in it; all else stays."""
        with suppress(NotFound):
            with ThreadPoolExecutor(8) as threads:
                removing = [threads.submit(self._remove, instance.name) for instance in self.instances()]
            # A failure is raised only after all other instances are gone.
            for removed in removing:
                removed.result()
            doing = "list the images"
            for image in self.connection.get("images", doing, params={"recursion": "1"}):
                self.connection.change("delete", f"images/{image['fingerprint']}", "delete an image")
        parts = (
            ("profiles", self._profile),
            ("projects", self._project),
            ("networks", self._network),
            ("network-acls", self._network),
            ("storage-pools", self._pool),
        )
        for kind, name in parts:
            with suppress(NotFound):
                path = f"{kind}/{name}"
                self.connection.request("delete", path, f"delete {path}", project=kind == "profiles", timeout=SHORT)

    def _remove(self, name: str) -> None:
        with suppress(NotFound):
            self.stop(name, force=True)
            self.update(name, {"security.protection.delete": None})
            self.delete(name)

    def _ensure(
        self,
        kind: str,
        body: dict[str, Any],
        members: list[str] | None = None,
        *,
        each: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        project: bool = False,
    ) -> None:
        """Create one object where it is missing.

        A cluster needs the object on each member first, with `each` as its configuration there.
        """
        if not self._lacks(kind, body["name"], project=project):
            return
        doing = f"make {kind.removesuffix('s').replace('-', ' ')} `{body['name']}`"
        try:
            if members:
                for member in members:
                    pending = {**body, "config": dict(each or {})}
                    self.connection.request("post", kind, doing, params={"target": member}, json=pending, project=False)
                body = {**body, "config": dict(config or {})}
            elif each is not None or config is not None:
                body = {**body, "config": {**(each or {}), **(config or {})}}
            self.connection.request("post", kind, doing, json=body, project=project, timeout=SHORT)
        except AlreadyExists:
            # Another bot was quicker, or something else of this name is in the way.
            if self._lacks(kind, body["name"], project=project):
                raise

    def _lacks(self, kind: str, name: str, *, project: bool = False) -> bool:
        try:
            found = self.connection.get(f"{kind}/{name}", f"look up {kind}/{name}", project=project)
        except NotFound:
            return True
        if not found.get("managed", True):
            raise AlreadyExists(
                f"There is a network `{name}` that is not this {self.connection.product}'s; "
                "choose another in `lxd.network`, and another `lxd.subnet`."
            )
        return False
