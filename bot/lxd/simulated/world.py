"""The state of a simulated LXD server, kept as JSON, and the rules of its pool, its disks and its network."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from bot.lxd.last_known import OnlyName
from bot.lxd.protocol import Instance, LxdError, LxdUnavailable, NotFound, PoolFull, Snapshot, size_bytes
from bot.lxd.wire import choose, kept

MIB = 1024**2
IN_MEMORY = "/run/"
"""Where the files are that a running instance has in memory, and that take no disk space."""
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_FULL = "LXD could not {}: the storage pool (or the disk's limit) is full."


def must_be_a_name(name: str, doing: str) -> None:
    """Raise LxdError where a name is not valid for an instance."""
    if not _NAME.match(name):
        raise LxdError(f"LXD could not {doing}: the name may have letters, digits and hyphens only.")


class File(msgspec.Struct, frozen=True):
    """A file inside an instance."""

    content: bytes
    mode: int
    uid: int
    gid: int


class Taken(msgspec.Struct):
    """A snapshot. `held`: bytes that only it has; `shared`: bytes that it shares with the snapshot before it."""

    name: str
    created: int
    config: dict[str, str]
    devices: dict[str, dict[str, str]]
    profiles: list[str]
    files: dict[str, File]
    held: int = MIB
    shared: int = 0

    def told(self) -> Snapshot:
        """Return the snapshot as the server reports it."""
        return Snapshot(name=self.name, created=self.created, config=dict(self.config), size=self.held)


class Machine(msgspec.Struct):
    """An instance with its disk and its files.

    Its disk refers to `base` bytes, which it shares with what it was cloned from, and to `bytes` of its own, of which
    `frozen` are in snapshots too. `unknown`: failed snapshots that are in the pool without the server's knowledge.
    """

    name: str
    status: str
    config: dict[str, str]
    devices: dict[str, dict[str, str]]
    profiles: list[str]
    created: int
    bytes: int
    base: int = 0
    frozen: int = 0
    location: str = ""
    address: str = ""
    started: int = 0
    files: dict[str, File] = {}
    snapshots: list[Taken] = []
    unknown: list[str] = []
    padding: dict[str, int] = {}

    def told(self) -> Instance:
        """Return the instance as the server reports it."""
        return Instance(
            name=self.name,
            status=self.status,
            config=dict(self.config),
            devices={key: dict(device) for key, device in self.devices.items()},
            profiles=tuple(self.profiles),
            location=self.location,
            created=self.created,
            started=self.started,
        )

    def taken(self, snapshot: str, doing: str) -> Taken:
        """Return a snapshot of the instance, or raise NotFound."""
        for found in self.snapshots:
            if found.name == snapshot:
                return found
        raise NotFound(f"LXD could not {doing}: `{self.name}` has no snapshot `{snapshot}`.")

    def must_run(self, doing: str) -> None:
        """Raise LxdError unless the instance runs."""
        if self.status != "Running":
            raise LxdError(f"LXD could not {doing}: Instance is not running.")

    def must_be_stopped(self, doing: str) -> None:
        """Raise LxdError unless the instance is stopped."""
        if self.status != "Stopped":
            raise LxdError(f"LXD could not {doing}: Instance is running.")

    def written(self) -> int:
        """Return the bytes that were written in the instance, and that only its own snapshots share."""
        written = self.bytes + sum(self.padding.values())
        for path, file in self.files.items():
            if not path.startswith(IN_MEMORY):
                written += len(file.content)
        return written


class Image(msgspec.Struct):
    """An image."""

    fingerprint: str
    bytes: int
    properties: dict[str, str]


class World(msgspec.Struct):
    """Everything that the server knows. `uncounted`: the members on whose pool quotas do not count at present.

    `closed`: the bridge is as `ensure_project` makes one.
    """

    pool_bytes: int
    subnet: str = "10.70.0.1/24"
    closed: bool = True
    members: list[str] = []
    offline: list[str] = []
    uncounted: list[str] = []
    machines: dict[str, Machine] = {}
    images: dict[str, Image] = {}
    aliases: dict[str, str] = {}
    memory: int = 512 * 1024 * MIB
    cores: int = 64

    def listed(self) -> list[Instance | OnlyName]:
        """Return all instances as the server lists them, sorted by name: of a silent member only the names."""
        return [
            OnlyName(name, "Error", machine.location) if machine.location in self.offline else machine.told()
            for name, machine in sorted(self.machines.items())
        ]

    def find(self, name: str, doing: str) -> Machine:
        """Return an instance, or raise NotFound, or LxdUnavailable where its member is silent."""
        if name not in self.machines:
            raise NotFound(f"LXD could not {doing}: there is no instance `{name}`.")
        machine = self.machines[name]
        if machine.location in self.offline:
            raise LxdUnavailable(f"LXD could not {doing} now: {machine.location} is offline.")
        return machine

    # -- the pool -----------------------------------------------------------------------------------------------

    def used(self, member: str) -> int:
        """Return the used bytes of a member's pool, or of the server's where there is no cluster."""
        # Every look at a tenant calls this, so it must be cheap: a thousand looks go through a thousand instances each.
        used = 0
        for machine in self.machines.values():
            if member in ("", machine.location):
                used += machine.written()
                for one in machine.snapshots:
                    used += one.held + one.shared
        return used

    def must_have(self, needed: int, doing: str, member: str) -> None:
        """Raise PoolFull where a pool has less than `needed` bytes of free space."""
        if self.used(member) + needed > self.pool_bytes:
            raise PoolFull(_FULL.format(doing))

    def must_fit(
        self, machine: Machine, needed: int, doing: str, devices: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Raise PoolFull where `needed` more bytes would exceed the limit of an instance's disk.

        Where quotas count, the limit applies to all bytes that the disk refers to.
        """
        limit = (machine.devices if devices is None else devices).get("root", {}).get("size")
        counts = machine.location not in self.uncounted
        if limit and counts and machine.base + machine.written() + needed > size_bytes(limit):
            raise PoolFull(_FULL.format(doing))

    # -- the network --------------------------------------------------------------------------------------------

    def given(self, machine: Machine, member: str = "") -> set[str]:
        """Return the addresses of all other instances, or of those on one member."""
        others = [other for other in self.machines.values() if other is not machine]
        here = [other for other in others if member in ("", other.location)]
        return {kept(other.config, other.devices) or other.address for other in here}

    def free_address(self, machine: Machine) -> str:
        """Return an address that is free on all members, or else on the instance's own.

        Raises LxdError when all are given.
        """
        try:
            return choose(self.subnet, machine.name, self.given(machine))
        except LxdError:
            return choose(self.subnet, machine.name, self.given(machine, machine.location))
