"""Records of what an LXD server reports about itself, its instances and its pool. Nothing here makes requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instance:
    """An instance as LXD lists it. `devices` are its own, without those of its profiles.

    `created` and `started` (the last start; 0: never) are epoch seconds.
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
        """Whether LXD reports the status `Running`."""
        return self.status == "Running"


@dataclass(frozen=True)
class InstanceState:
    """The state of an instance at one moment.

    Sizes are bytes, `cpu` is nanoseconds since the last start, and `address` is the global IPv4 address on eth0 (or
    ""). `memory` is what the control group holds, page cache included, unlike the figure that the tool inside reports.
    `memory_peak`: the most that it held since the last start; 0 where the kernel does not report it.

    `addresses`: all global IPv4 addresses on eth0. `address` and `addresses` come from inside the instance, where
    whoever is root can set them: they show that the instance is up, and must never be used to send anything there.
    `bot.lxd.wire.given` returns the address for that.
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

    `size`: the bytes that only this snapshot holds; 0 where LXD cannot tell.
    """

    name: str
    created: int
    expires: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class FullInstance:
    """An instance with its state and its snapshots (oldest first), as one request returns them."""

    instance: Instance
    state: InstanceState
    snapshots: tuple[Snapshot, ...] = ()


@dataclass(frozen=True)
class Member:
    """A cluster member, with the address of its API and LXD's message about it.

    Offline means the control plane alone: the containers of an offline member may well run and serve.
    """

    name: str
    address: str
    online: bool
    status: str


@dataclass(frozen=True)
class Server:
    """The server itself. `product`: LXD or Incus. `extensions`: what its API can do; check it, assume nothing.

    `certificate`: the server's own (PEM), the same on all members of a cluster. `addresses`: the URLs at which it
    answers over the network.
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
    """The used and total bytes of a storage pool."""

    used: int
    total: int


@dataclass(frozen=True)
class Quotas:
    """The kernel's view of the quotas of a btrfs pool. `filesystem`: its UUID. `counts`: whether they are consistent.

    While the kernel calls them “inconsistent”, no figure changes and no limit is enforced.
    """

    filesystem: str
    counts: bool


@dataclass(frozen=True)
class Resources:
    """The resources of a host as LXD reports them: bytes of memory, cores, and the load average of the last minute.

    `load` is None where the server does not report it. `seconds` is how long the server took to answer.

    `used` excludes free memory and caches: LXD subtracts free pages, buffers and cached files from the installed
    memory. So `available` may differ by some hundred megabytes from the kernel's own MemAvailable: it is higher because
    it includes what the kernel keeps for itself and files in memory (tmpfs), or lower because it excludes caches of the
    kernel that can be freed.
    """

    total: int
    used: int
    cores: int
    load: float | None = None
    seconds: float = 0.0

    @property
    def available(self) -> int:
        """Bytes that can be allocated without taking memory from anything that uses it."""
        return self.total - self.used


@dataclass(frozen=True)
class ExecResult:
    """The result of a command inside an instance. Output is text; undecodable bytes are replaced."""

    code: int
    stdout: str
    stderr: str
