"""What the bot asks of one LXD server: the `Lxd` protocol, and its errors.

`bot.lxd.gateway.LxdGateway` speaks to a real server, `bot.lxd.simulated.lxd.SimulatedLxd` keeps one in memory;
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

# With the records: whoever speaks the protocol has them from here, until `bot/lxd/` is a package.
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
    """There is no such instance, snapshot, pool or file."""


class AlreadyExists(LxdError):
    """The name is taken."""


class PoolFull(LxdError):
    """The storage pool has no room for what was asked."""


class TenantAnswerError(LxdError):
    """What is inside an instance answers too much, too late, nothing, or nonsense; the sentence names the instance."""


class Vanished(LxdError):
    """Files of a running instance went away while LXD walked them: the next try may well succeed."""


def edge_address(subnet: str) -> str:
    """Return the address on the bridge that is kept for the edge (`10.70.0.1/24` → `10.70.0.2`).

    Tenants get theirs from the sixteenth on. Raises LxdError for what is no subnet, or one too small.
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
    """A command inside an instance that is spoken with."""

    def send(self, content: bytes) -> None:
        """Write to its standard input."""

    def line(self, most: int = 0) -> bytes:
        """Return the next line that it writes, without its end, or raise TenantAnswerError.

        `most`: bytes of it that are read before it counts as none; 0: as many as are read of all lines together.
        """


class Lxd(Protocol):
    """One LXD server, within the bot's own LXD project. Every call has a deadline and raises LxdError kinds.

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
        """Return the address of the bot's bridge with its network, `10.70.0.1/24`; raises NotFound where it is not."""

    def keeps_in(self) -> bool:
        """Whether the bot's bridge is closed as `ensure_project` closes it; one that an earlier bot made is not yet."""

    def members(self) -> list[Member]:
        """List the members of the cluster, sorted by name; none where there is no cluster."""

    def at(self, member: str) -> Self:
        """Return the same server, where what is new comes to stand on one member, and `pool` is that member's."""

    def copy(
        self,
        source: str,
        name: str,
        *,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Copy an instance (`blueprint`) or a snapshot of one (`blueprint/golden`) to a new, stopped one.

        Config and devices are laid over the source's. Profiles are kept, volatile keys (MAC) are not,
        nor are snapshots. Without an `eth0` in `devices` it gets one with an address of its own, as whatever is made
        by `receive` and `create` does. Raises AlreadyExists, NotFound, PoolFull.
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
        """Copy an instance with its snapshots from another server or member to here, stopped.

        The source may run, and is not changed. Profiles are kept, volatile keys (MAC) are not; config and devices are
        laid over the source's. `refresh` brings the stopped copy that is here up to date instead; its configuration
        stays, with config and devices laid over. What is sent then is what the newest snapshot has more than the one
        before it: take one right before (without, all is sent), and let the names sort by age, since LXD goes by them.

        It may take as long as bytes move; when none do, it ends in LxdUnavailable. What was cut short may leave a part
        under `name`: whoever asked deletes it. Raises AlreadyExists, NotFound (also for a refresh of nothing),
        PoolFull, LxdUnavailable; LxdError at once where the one product takes nothing from the other.
        """

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Create a stopped container from a local image alias or fingerprint."""

    def pin(self, name: str) -> str:
        """Give it an address of its own where it has none yet, and return what it has.

        One that runs keeps the address that LXD's DHCP leased to it. Raises LxdError where none is free.
        """

    def start(self, name: str) -> None:
        """Start it; no effect when it already runs. Where another has its address by now, it gets a new one."""

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """Stop it in peace within `timeout` seconds, or by force; no effect when it is stopped."""

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """Stop in peace, then start."""

    def thaw(self, name: str) -> None:
        """Let one go on that a snapshot which was cut short left frozen; no effect where none is."""

    def isolate(self, name: str) -> None:
        """Take an instance off the network, by its interface and over restarts; nothing inside is asked."""

    def rejoin(self, name: str) -> None:
        """Take `isolate` back: the same address, a new MAC; no effect where there is nothing to take back.

        What runs inside may ask for its address only at its next start.
        """

    def rename(self, name: str, new_name: str) -> None:
        """Rename a stopped instance."""

    def delete(self, name: str) -> None:
        """Delete a stopped instance with its snapshots (protection must have been taken off)."""

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """Lay keys over the configuration (None or "" takes a key away). Serialised per instance, with its ETag."""

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
        """Take a snapshot, with `config` stamped on it; `within` is entered only while it is taken itself.

        Raises Vanished where files of a running instance went away meanwhile: then under another name, since what was
        begun may be in the way. `still`: nothing in it runs meanwhile, and its visitors wait, so that none can go away.
        `closed`: all work in it has ended, so that none goes away anyhow; to have it stand still may take a second
        (liblxc looks at a control group of version 1 once a second).
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
        """Run a command inside a running instance of our own, never a tenant; return its end and output.

        All of the output stands on the host until it is read, and what did not end in time goes on: so nothing secret
        may be printed, and it must be a command that ends. Raises LxdUnavailable on timeout.
        """

    def talk(self, name: str, command: list[str], *, timeout: float = 120, limit: int) -> AbstractContextManager[Talk]:
        """Speak with a command inside a running instance, which is believed in nothing.

        What is said is nowhere on the host, and whatever was begun ends with the conversation: that takes no more than
        so many seconds as a whole, and all lines together have no more than so many bytes.
        """

    def sweep(self) -> None:
        """Remove what was cut off left: output of commands that nobody reads any more, and halves of snapshots.

        The latter where the pool is on this machine; elsewhere `delete` says what is in its way.
        """

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """Write a file inside an instance (running or not). Its folder must exist."""

    def pad(self, name: str, path: str, size: int) -> None:
        """Write a file of so many bytes inside an instance that say nothing and cannot be written shorter."""

    def pull(self, name: str, path: str) -> bytes:
        """Read a file from inside an instance of our own, never a tenant, or raise NotFound.

        A tenant may lay anything there: a pipe that never ends, or more than any memory holds.
        """

    def remove(self, name: str, path: str) -> None:
        """Delete a file inside an instance; no effect when it is not there."""

    def pool(self) -> PoolSpace:
        """Return the room of the pool that tenants stand on."""

    def quotas(self, name: str) -> Quotas | None:
        """Return what the kernel says of the quotas of the pool that a running instance stands on.

        None where it does not tell: it is no btrfs, has no quotas, or the kernel is older than 6.1.
        """

    def recount(self, name: str, filesystem: str) -> None:
        """Have the kernel begin to count anew what is on the filesystem that a running instance stands on.

        It returns at once, and also where that is under way. Raises LxdError where this program cannot do it: the
        server is on another machine, or lets nobody but root.
        """

    def root_path(self, name: str) -> str:
        """Return where the root of a running instance is found on its host, whatever is mounted where there."""

    def resources(self) -> Resources:
        """Return the memory and load of the server's machine, or of the member that this door is `at`."""

    def import_image(self, path: str, alias: str, properties: Mapping[str, str]) -> str:
        """Import a unified image tarball from a local file; return its fingerprint (the same for the same content)."""

    def export_image(self, source: str, alias: str, path: str, properties: Mapping[str, str]) -> str:
        """Publish a stopped instance or `instance/snapshot` as an image, write it to a file, return its fingerprint."""

    def image(self, alias: str) -> Mapping[str, str] | None:
        """Return the properties of a local image by alias (with its `fingerprint`), or None."""

    def ensure_project(self, *, pool_driver: str, pool_size: str, subnet: str, ways: Sequence[str] = ()) -> None:
        """Make the bot's own project, pool, bridge and profile where they are missing; leave all else alone.

        `subnet` is the address of a new bridge (`10.70.0.1/24`). The bridge has NAT and DHCP, and its ports are
        isolated from each other except for the edge's, so that tenants cannot reach each other. What a bridge, its
        rules and the profile that are there lack of what keeps tenants in is laid over them.

        From the bridge the outside can be reached, and neither the host nor private networks; `ways` names what is
        open all the same (`10.0.0.25:25`, `10.1.0.0/16`).
        """
