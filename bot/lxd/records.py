"""What an LXD server tells of itself, its instances and its pool: records, and nothing that asks or changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instance:
    """An instance as LXD lists it. `devices` are its own, not its profiles'.

    `created`, and `started` (its last start, 0: never), are epoch seconds.
    """

    name: str
    status: str
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    location: str = ""
    created: int = 0
    started: int = 0

    @property
    def running(self) -> bool:
        """Whether LXD says `Running`."""
        return self.status == "Running"


@dataclass(frozen=True)
class InstanceState:
    """A moment of an instance: bytes, nanoseconds of CPU since its start, and its global IPv4 on eth0 (or "").

    `memory` is what its control group holds: with its files in the cache, unlike what the tool inside tells.
    `memory_peak`: the most that it held since its start, 0 where the kernel does not tell.
    `addresses`: all of them on eth0. Both are what stands inside, where whoever is root there has written it: a sign
    that it is up, and never where to send anything; for that there is `bot.lxd.wire.given`.
    """

    status: str
    address: str = ""
    addresses: tuple[str, ...] = ()
    disk: int = 0
    cpu: int = 0
    processes: int = 0
    memory: int = 0
    memory_peak: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of an instance; `created` and `expires` are epoch seconds (0: never).

    `size`: the bytes that it alone holds, 0 where LXD cannot tell.
    """

    name: str
    created: int
    expires: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class FullInstance:
    """All that is read of an instance at once; the snapshots oldest first."""

    instance: Instance
    state: InstanceState
    snapshots: tuple[Snapshot, ...] = ()


@dataclass(frozen=True)
class Member:
    """A member of a cluster, with its API's address and what LXD says of it.

    Offline is the control plane alone: the containers of such a member may well run and serve.
    """

    name: str
    address: str
    online: bool
    status: str


@dataclass(frozen=True)
class Server:
    """The server itself. `product`: LXD or Incus. `extensions`: what its API can do; probe it, assume nothing.

    `certificate`: its own (PEM), the same on all members of a cluster. `addresses`: where it answers over the network.
    """

    name: str
    version: str
    extensions: frozenset[str]
    clustered: bool = False
    product: str = "LXD"
    simulated: bool = False
    certificate: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoolSpace:
    """Bytes of a storage pool."""

    used: int
    total: int


@dataclass(frozen=True)
class Quotas:
    """What the kernel says of the quotas of a pool on btrfs. `filesystem`: its uuid.

    Where they do not count (they are “inconsistent”), all figures stand still and no limit is enforced.
    """

    filesystem: str
    counts: bool


@dataclass(frozen=True)
class Resources:
    """What a host has, as LXD tells: bytes of memory, cores, and the load average of the last minute (None: not told).

    `seconds` is how long the server took to answer.

    `used` is neither free nor cache: LXD subtracts free pages, buffers and cached files from the installed memory. So
    `available` may be off by some hundred megabytes from the kernel's own MemAvailable: higher, as it has what the
    kernel keeps for itself and files in memory (tmpfs), or lower, as it lacks caches of the kernel's that can be freed.
    """

    total: int
    used: int
    cores: int
    load: float | None = None
    seconds: float = 0.0

    @property
    def available(self) -> int:
        """Bytes that can be had without taking any away."""
        return self.total - self.used


@dataclass(frozen=True)
class ExecResult:
    """The end of a command inside an instance. Output is text, undecodable bytes replaced."""

    code: int
    stdout: str
    stderr: str
