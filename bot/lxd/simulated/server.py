"""Reads a simulated LXD server: itself, its cluster, pool and instances; and locks and stores it for each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from bot.lxd.last_known import LastKnown
from bot.lxd.products import LXD
from bot.lxd.protocol import (
    FullInstance,
    Instance,
    InstanceState,
    LxdError,
    LxdUnavailable,
    Member,
    PoolSpace,
    Quotas,
    Resources,
    Server,
    Snapshot,
    edge_address,
    size_bytes,
)
from bot.lxd.simulated.world import MIB, Machine, World

TENANT_BYTES = 140 * MIB
"""Bytes of its host's memory that a running instance takes: twice what an idle tenant reports, as in the worst case."""
HOST_BYTES = 1024 * MIB
"""Bytes of memory that a host needs for itself."""
_MEMBER_SAYS = {False: "Fully operational", True: "No heartbeat for 30s"}
_CHANGES = frozenset(
    [
        "ensure_project",
        "recount",
        "copy",
        "receive",
        "pin",
        "create",
        "start",
        "stop",
        "restart",
        "thaw",
        "isolate",
        "rejoin",
        "rename",
        "delete",
        "update",
        "snapshot",
        "delete_snapshot",
        "push",
        "pad",
        "remove",
        "import_image",
        "export_image",
    ]
)
"""The calls that change the world, so that it is stored after them."""


class SimulatedServer:
    """The part of `SimulatedLxd` that reads, and the base of all its other parts.

    `world` is what the server knows; within `call` no other thread uses it. `clock` returns epoch seconds. `member`:
    the cluster member for new instances; empty: beside their source, or where the fewest are.
    """

    __slots__ = ("__dict__", "member")

    product = LXD.name
    """The product that the server reports."""
    load: float | None = None
    """The load of each host; None: not reported, as by LXD 5.0."""

    def __init__(
        self,
        *,
        members: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        pool_bytes: int = 30 * 1024 * MIB,
        memory: int = 512 * 1024 * MIB,
        cores: int = 64,
        state: Path | None = None,
    ) -> None:
        self.member = ""
        self.clock = clock
        self.lock = threading.RLock()
        self.down = False
        self._state = state
        self._memory = LastKnown()
        self.world = World(pool_bytes=pool_bytes, members=sorted(members), memory=memory, cores=cores)
        if state is not None and state.exists():
            self.world = msgspec.json.decode(state.read_bytes(), type=World)

    @contextmanager
    def call(self, method: str, *_arguments: object) -> Iterator[World]:
        """Lock the world for one call, and store it afterwards if the call changes it.

        Raises LxdUnavailable while the server is `down`.
        """
        with self.lock:
            if self.down:
                raise LxdUnavailable("LXD does not answer: connection refused.")
            yield self.world
            if self._state is not None and method in _CHANGES:
                part = self._state.with_suffix(".part")
                part.write_bytes(msgspec.json.encode(self.world))
                part.replace(self._state)

    def at(self, member: str) -> Self:
        """See `Lxd.at`."""
        there = object.__new__(type(self))
        # Both share everything but the member, also attributes that are set later.
        there.__dict__ = self.__dict__
        there.member = member
        return there

    # -- the server ---------------------------------------------------------------------------------------------

    def server(self) -> Server:
        """See `Lxd.server`."""
        with self.call("server") as world:
            return Server(
                name=self.member or "simulated",
                version="simulated",
                extensions=frozenset(),
                clustered=bool(world.members),
                product=self.product,
                simulated=True,
            )

    def subnet(self) -> str:
        """See `Lxd.subnet`."""
        with self.call("subnet") as world:
            return world.subnet

    def isolates_tenants(self) -> bool:
        """See `Lxd.isolates_tenants`."""
        with self.call("isolates_tenants") as world:
            return world.closed

    def members(self) -> list[Member]:
        """See `Lxd.members`."""
        with self.call("members") as world:
            return [
                Member(name, f"https://{name}:8443", name not in world.offline, _MEMBER_SAYS[name in world.offline])
                for name in world.members
            ]

    def pool(self) -> PoolSpace:
        """See `Lxd.pool`."""
        with self.call("pool") as world:
            return PoolSpace(used=world.used(self.member), total=world.pool_bytes)

    def quotas(self, name: str) -> Quotas | None:
        """See `Lxd.quotas`."""
        doing = f"look at the quotas of `{name}`"
        with self.call("quotas", name) as world:
            machine = world.find(name, doing)
            machine.must_run(doing)
            return Quotas(f"simulated-{machine.location}", machine.location not in world.uncounted)

    def recount(self, name: str, filesystem: str) -> None:
        """See `Lxd.recount`."""
        doing = f"count anew the pool of `{name}`"
        with self.call("recount", name) as world:
            machine = world.find(name, doing)
            machine.must_run(doing)
            if filesystem != f"simulated-{machine.location}":
                raise LxdError(f"LXD could not {doing}: it is on another machine.")
            world.uncounted = [member for member in world.uncounted if member != machine.location]

    def root_path(self, name: str) -> str:
        """See `Lxd.root_path`."""
        doing = f"find the root of `{name}`"
        with self.call("root_path", name) as world:
            world.find(name, doing).must_run(doing)
            return f"/proc/{1000 + sorted(world.machines).index(name)}/root"

    def resources(self) -> Resources:
        """See `Lxd.resources`. A cluster without a chosen member reports its first member's."""
        with self.call("resources") as world:
            member = self.member or next(iter(world.members), "")
            if member in world.offline:
                raise LxdUnavailable(f"LXD could not measure the host's memory now: {member} is offline.")
            return Resources(world.memory, self.memory_used(member), world.cores, self.load)

    def memory_of(self, name: str) -> int:
        """Return the bytes of memory that a running instance takes."""
        return TENANT_BYTES

    def memory_used(self, member: str) -> int:
        """Return the bytes of memory in use on a host."""
        return HOST_BYTES + sum(
            self.memory_of(machine.name)
            for machine in self.world.machines.values()
            if machine.status == "Running" and machine.location == member
        )

    def ensure_project(self, *, pool_driver: str, pool_size: str, subnet: str, ways: Sequence[str] = ()) -> None:
        """See `Lxd.ensure_project`."""
        edge_address(subnet)
        with self.call("ensure_project") as world:
            world.pool_bytes = size_bytes(pool_size)
            world.subnet = subnet
            world.closed = True

    # -- reading instances --------------------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """See `Lxd.instances`."""
        with self.call("instances") as world:
            return self._memory.without_gaps(world.listed(), self.product)

    def instance(self, name: str) -> Instance:
        """See `Lxd.instance`."""
        with self.call("instance", name) as world:
            return world.find(name, f"read `{name}`").told()

    def states(self) -> dict[str, InstanceState]:
        """See `Lxd.states`."""
        with self.call("states") as world:
            return {whole.instance.name: whole.state for whole in self._full_instances(world)}

    def state(self, name: str) -> InstanceState:
        """See `Lxd.state`."""
        with self.call("state", name) as world:
            return self._state_of(world.find(name, f"read the state of `{name}`"))

    def full_instances(self) -> list[FullInstance]:
        """See `Lxd.full_instances`."""
        with self.call("full_instances") as world:
            return self._full_instances(world)

    def snapshots(self, name: str) -> list[Snapshot]:
        """See `Lxd.snapshots`."""
        with self.call("snapshots", name) as world:
            return [one.told() for one in world.find(name, f"list the snapshots of `{name}`").snapshots]

    def _full_instances(self, world: World) -> list[FullInstance]:
        return [
            FullInstance(instance, InstanceState(instance.status))
            if instance.location in world.offline
            else self._full_instance(instance, world.machines[instance.name])
            for instance in self._memory.without_gaps(world.listed(), self.product)
        ]

    def _full_instance(self, instance: Instance, machine: Machine) -> FullInstance:
        return FullInstance(instance, self._state_of(machine), tuple(one.told() for one in machine.snapshots))

    def _state_of(self, machine: Machine) -> InstanceState:
        # As on btrfs: only bytes that nothing else shares, although the limit counts shared ones too.
        own = max(0, machine.written() - machine.frozen)
        if machine.status != "Running":
            return InstanceState(status=machine.status, disk=own)
        return InstanceState(
            status=machine.status,
            address=machine.address,
            addresses=(machine.address,) if machine.address else (),
            disk=own,
            cpu=10**9,
            processes=30,
            memory=self.memory_of(machine.name),
        )
