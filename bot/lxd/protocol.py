"""The `Lxd` protocol: everything that the bot asks of one LXD server, and the errors of these calls.

`bot.lxd.gateway.LxdGateway` implements it for a real server, `bot.lxd.simulated.lxd.SimulatedLxd` in memory;
`tests/contracts` holds both to the same behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, Self

from bot.lxd.records import (
    ExecResult,
    FullInstance,
    Instance,
    InstanceState,
    Member,
    PoolSpace,
    Quotas,
    Resources,
    Server,
    Snapshot,
)
from bot.model.forms import bridge_interface, lxd_bytes

# The records are exported here too, so that users of the protocol need one import only.
__all__ = [
    "AlreadyExists",
    "ExecResult",
    "FullInstance",
    "Instance",
    "InstanceState",
    "Lxd",
    "LxdError",
    "LxdUnavailable",
    "Member",
    "NotFound",
    "PoolFull",
    "PoolSpace",
    "Quotas",
    "Resources",
    "Server",
    "Snapshot",
    "Talk",
    "TenantAnswerError",
    "Vanished",
    "edge_address",
    "size_bytes",
]


class LxdError(Exception):
    """LXD refused or failed; the text is one sentence for a person."""


class LxdUnavailable(LxdError):
    """The server cannot be reached, or did not answer within the deadline."""


class NotFound(LxdError):
    """The instance, snapshot, pool or file does not exist."""


class AlreadyExists(LxdError):
    """The name is taken."""


class PoolFull(LxdError):
    """The storage pool has too little free space for the request."""


class TenantAnswerError(LxdError):
    """A program inside an instance answers too much, too late, not at all, or nonsense; the sentence names the
    instance."""


class Vanished(LxdError):
    """Files of a running instance were deleted while LXD walked through them; the next try may well succeed."""


def edge_address(subnet: str) -> str:
    """Return the address on the bridge that is reserved for the edge (`10.70.0.1/24` → `10.70.0.2`).

    Tenants get the addresses from number 16 on (`10.70.0.16`). Raises LxdError for an invalid subnet, or one that is
    too small.
    """
    try:
        interface = bridge_interface(subnet)
    except ValueError as error:
        raise LxdError(f"“{subnet}” is not a bridge's address; write one such as `10.70.0.1/24`.") from error
    network = interface.network
    return str(network[2] if interface.ip != network[2] else network[3])


def size_bytes(text: str) -> int:
    """Return the bytes of an LXD size (`30GiB`, `512MB`, `1024`), or raise LxdError."""
    try:
        return lxd_bytes(text)
    except ValueError as error:
        raise LxdError(f"“{text}” is not a size; write one such as `30GiB`.") from error


class Talk(Protocol):
    """A conversation with a command inside an instance."""

    def send(self, content: bytes) -> None:
        """Write to the command's standard input."""

    def line(self, most: int = 0) -> bytes:
        """Return the next line of the command's output, without its newline, or raise TenantAnswerError.

        `most`: bytes that are read of a line before it is refused as too long; 0: only the limit of all lines together
        applies.
        """


class Lxd(Protocol):
    """One LXD server, within the bot's own LXD project. Every call has a deadline and raises kinds of LxdError.

    Changes return when LXD has finished them. None of them is idempotent by itself: look, then act.
    """

    def server(self) -> Server:
        """Describe the server (one request; also the cheapest check that it answers)."""

    def instances(self) -> list[Instance]:
        """List every instance of the project in one request (recursion=1), sorted by name."""

    def instance(self, name: str) -> Instance:
        """Return one instance, or raise NotFound."""

    def states(self) -> dict[str, InstanceState]:
        """Return the state of every instance, by name, in one request (recursion=2; slow on big fleets)."""

    def state(self, name: str) -> InstanceState:
        """Return the state of one instance."""

    def full_instances(self) -> list[FullInstance]:
        """Return every instance with state and snapshots, in one request (recursion=2), sorted by name."""

    def subnet(self) -> str:
        """Return the bridge's address with its network, `10.70.0.1/24`; raises NotFound where there is no bridge."""

    def isolates_tenants(self) -> bool:
        """Return whether the bot's bridge keeps tenants in, as `ensure_project` sets it up.

        The bridge of an earlier version of the bot does not yet.
        """

    def members(self) -> list[Member]:
        """List the members of the cluster, sorted by name; empty where there is no cluster."""

    def at(self, member: str) -> Self:
        """Return the same server, bound to one cluster member.

        New instances are placed on that member, and `pool` and `resources` are that member's.
        """

    def copy(
        self,
        source: str,
        name: str,
        *,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Copy an instance (`blueprint`) or a snapshot of one (`blueprint/golden`) to a new, stopped one.

        Config and devices are laid over the source's. Profiles are kept; volatile keys (MAC) and snapshots are not.
        Without an `eth0` in `devices` the copy gets one with an address of its own, as does every instance that
        `receive` and `create` make. Raises AlreadyExists, NotFound, PoolFull.
        """

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
        """Copy an instance with its snapshots from another server or member to this one; the copy is stopped.

        The source may run, and is not changed. Profiles are kept, volatile keys (MAC) are not; config and devices are
        laid over the source's. `refresh` brings the existing, stopped copy up to date instead; its configuration stays,
        with config and devices laid over. A refresh sends only what the newest snapshot has beyond the one before it.
        So take a snapshot right before (otherwise everything is sent), and give snapshots names that sort by age, since
        LXD goes by the names.

        The call may take as long as bytes move; when none do, it raises LxdUnavailable. An interrupted copy may leave a
        partial instance under `name`, which the caller deletes. Raises AlreadyExists, NotFound (also for a refresh
        without a copy), PoolFull, LxdUnavailable; LxdError at once where the one product accepts nothing from the
        other.
        """

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Create a stopped container from a local image alias or fingerprint."""

    def pin(self, name: str) -> str:
        """Give an instance an address of its own where it has none yet, and return its address.

        A running instance keeps the address that LXD's DHCP leased to it. Raises LxdError where none is free.
        """

    def start(self, name: str) -> None:
        """Start an instance; no effect when it already runs.

        Where another instance has its address by now, it gets a new one.
        """

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """Stop an instance cleanly within `timeout` seconds, or by force; no effect when it is stopped."""

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """Stop an instance cleanly within `timeout` seconds, then start it."""

    def thaw(self, name: str) -> None:
        """Unfreeze an instance that an interrupted snapshot left frozen; no effect where it is not frozen."""

    def isolate(self, name: str) -> None:
        """Take an instance off the network, also across restarts, by its interface; nothing inside is asked."""

    def rejoin(self, name: str) -> None:
        """Undo `isolate`: the same address, a new MAC. No effect where the instance is not isolated.

        The system inside may request its address only at its next start.
        """

    def rename(self, name: str, new_name: str) -> None:
        """Rename a stopped instance."""

    def delete(self, name: str) -> None:
        """Delete a stopped instance with its snapshots (its delete protection must be off)."""

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """Lay keys and devices over the configuration (None or "" removes a key, None a device).

        Updates are serialised per instance, and sent with its ETag.
        """

    def snapshot(
        self,
        name: str,
        snapshot: str,
        *,
        config: Mapping[str, str] | None = None,
        within: AbstractContextManager[object] | None = None,
        still: bool = False,
        closed: bool = False,
    ) -> None:
        """Take a snapshot with the keys of `config`; `within` is entered only while the snapshot itself is taken.

        Raises Vanished where files of a running instance were deleted meanwhile; retry under another name, since the
        remains of the first try may be in the way. `still`: freeze the instance meanwhile, so that no file can be
        deleted; its visitors wait. `closed`: all work in the instance has ended, so that no file is deleted even
        without a freeze, which may take a second (liblxc looks at a control group of version 1 once a second).
        """

    def snapshots(self, name: str) -> list[Snapshot]:
        """List the snapshots of an instance, oldest first."""

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """Delete one snapshot."""

    def execute(
        self,
        name: str,
        command: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: int = 0,
        timeout: int = 120,
    ) -> ExecResult:
        """Run a command inside a running instance of the bot's own, never a tenant; return its exit code and output.

        The whole output is stored on the host until the bot has read it, and a command that misses its deadline goes
        on. So the command must print no secrets, and must end by itself. Raises LxdUnavailable on timeout.
        """

    def talk(self, name: str, command: list[str], *, timeout: float = 120, limit: int) -> AbstractContextManager[Talk]:
        """Talk with a command inside a running instance, whose answers are not trusted.

        The host stores nothing of the conversation, and the command ends with it. The whole conversation takes at most
        `timeout` seconds, and all lines together have at most `limit` bytes.
        """

    def sweep(self) -> None:
        """Remove what interrupted calls left: output of commands that nobody reads any more, and partial snapshots.

        Partial snapshots are removed only where the pool is on this machine; elsewhere the error of `delete` says what
        is in its way.
        """

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """Write a file inside an instance (running or not). Its folder must exist."""

    def pad(self, name: str, path: str, size: int) -> None:
        """Write a file of `size` bytes inside an instance, with meaningless content that cannot be compressed."""

    def pull(self, name: str, path: str) -> bytes:
        """Read a file from inside an instance of the bot's own, never a tenant, or raise NotFound.

        A tenant could put anything there: a pipe that never ends, or more than fits into memory.
        """

    def remove(self, name: str, path: str) -> None:
        """Delete a file inside an instance; no effect when it is not there."""

    def pool(self) -> PoolSpace:
        """Return the used and total space of the pool that holds the tenants."""

    def quotas(self, name: str) -> Quotas | None:
        """Return the kernel's view of the quotas of the pool that holds a running instance.

        None where the kernel does not report it: the pool is no btrfs, has no quotas, or the kernel is older than 6.1.
        """

    def recount(self, name: str, filesystem: str) -> None:
        """Start a rescan of the quotas of the filesystem (`filesystem`: its UUID) that holds a running instance.

        Returns at once, also where a rescan is under way. Raises LxdError where this process cannot start one: the
        server is on another machine, or only root may.
        """

    def root_path(self, name: str) -> str:
        """Return the path on the host of a running instance's root, independent of what is mounted on the host."""

    def resources(self) -> Resources:
        """Return the memory and load of the server's machine, or of the member that `at` chose."""

    def import_image(self, path: str, alias: str, properties: Mapping[str, str]) -> str:
        """Import a unified image tarball from a local file; return its fingerprint (the same for the same content)."""

    def export_image(self, source: str, alias: str, path: str, properties: Mapping[str, str]) -> str:
        """Publish a stopped instance or `instance/snapshot` as an image, write it to a file, return its fingerprint."""

    def image(self, alias: str) -> Mapping[str, str] | None:
        """Return the properties of a local image by alias (with its `fingerprint`), or None."""

    def ensure_project(self, *, pool_driver: str, pool_size: str, subnet: str, ways: Sequence[str] = ()) -> None:
        """Create the bot's own project, pool, bridge and profile where they are missing; leave all else alone.

        `subnet` is the address of a new bridge (`10.70.0.1/24`). The bridge has NAT and DHCP, and its ports are
        isolated from each other except for the edge's, so that tenants cannot reach each other. Where an existing
        bridge, its rules or the profile lack settings that keep tenants in, these are added.

        From the bridge the internet can be reached, but neither the host nor private networks; `ways` names the
        exceptions (`10.0.0.25:25`, `10.1.0.0/16`).
        """
