"""The `Lxd` protocol in memory: for tests, and for trying the bot where no LXD can run."""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from bot.labels import stamp
from bot.lxd import (
    AlreadyExists,
    ExecResult,
    Instance,
    InstanceState,
    LxdError,
    LxdUnavailable,
    Member,
    NotFound,
    PoolFull,
    PoolSpace,
    Quotas,
    Resources,
    Server,
    Snapshot,
    TenantAnswerError,
    Vanished,
    Whole,
    edge_address,
    size_bytes,
)
from bot.products import LXD, takes
from bot.simulated_tenant import STATE, run_mautic_ctl
from bot.wire import NIC, choose, kept, put_back, taken_off

MIB = 1024**2
CLONE_BYTES = 12 * MIB
"""What a copy-on-write clone owns at first."""
TENANT_BYTES = 390 * MIB
"""What a running instance takes of its host's memory: so much it was of real tenants, some 200 of which they see."""
HOST_BYTES = 1024 * MIB
"""What a host needs for itself."""
START_SECONDS = 0.3
"""What a start takes: after a boot LXD starts one after the other."""
_UNCOUNTED = ("/run/", STATE)
"""What lies in a running instance's memory, and what only a simulated one has."""
_FULL = "LXD could not {}: the storage pool (or the disk's limit) is full."
_MEMBER_SAYS = {False: "Fully operational", True: "No heartbeat for 30s"}
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")

Execute = Callable[["SimulatedLxd", str, list[str], Mapping[str, str]], ExecResult]
"""Answers a command inside an instance: (server, instance, command, environment). It may push and pull files."""


Speak = Callable[["SimulatedLxd", str, list[str], bytes], Iterator[bytes]]
"""Plays a command that is spoken with: (server, instance, command, what was sent to it first). Yields its lines, the
next whenever another is waited for."""


class _Talk:
    """See `Talk`; a command begins to speak with what is sent to it first."""

    def __init__(self, name: str, speak: Callable[[bytes], Iterator[bytes]], limit: int) -> None:
        self._name = name
        self._speak = speak
        self._limit = limit
        self._lines: Iterator[bytes] | None = None

    def send(self, content: bytes) -> None:
        """See `Talk.send`."""
        if self._lines is None:
            self._lines = self._speak(content)

    def line(self) -> bytes:
        """See `Talk.line`."""
        line = next(self._lines or iter(()), None)
        if line is None:
            raise TenantAnswerError(f"What was asked of `{self._name}` ended and left no answer.")
        self._limit -= len(line) + 1
        if self._limit < 0:
            raise TenantAnswerError(f"`{self._name}` answers more than is read of it.")
        return line


class _File(msgspec.Struct, frozen=True):
    content: bytes
    mode: int
    uid: int
    gid: int


class _Snapshot(msgspec.Struct):
    name: str
    created: int
    config: dict[str, str]
    devices: dict[str, dict[str, str]]
    profiles: list[str]
    files: dict[str, _File]
    held: int = MIB
    shared: int = 0


class _Machine(msgspec.Struct):
    """An instance. Of its disk it refers to `base` bytes, which it shares with what it was cloned from, and to `bytes`
    of its own, of which `frozen` are in snapshots too; and its files. `unknown`: snapshots that failed, and that stand
    in the pool without the server's knowledge."""

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
    files: dict[str, _File] = {}
    snapshots: list[_Snapshot] = []
    unknown: list[str] = []
    padding: dict[str, int] = {}


class _Image(msgspec.Struct):
    fingerprint: str
    bytes: int
    properties: dict[str, str]


class _World(msgspec.Struct):
    """All that the server knows; what is kept in the state file."""

    pool_bytes: int
    subnet: str = "10.70.0.1/24"
    closed: bool = True
    members: list[str] = []
    offline: list[str] = []
    uncounted: list[str] = []
    machines: dict[str, _Machine] = {}
    images: dict[str, _Image] = {}
    aliases: dict[str, str] = {}
    memory: int = 512 * 1024 * MIB
    cores: int = 64


class SimulatedLxd:
    """One LXD server in memory, or a cluster. Safe for many threads.

    Args:
        members: of a cluster; each has a pool of its own.
        clock: epoch seconds.
        execute: answers commands inside instances; the default ends all with 0.
        speak: plays commands that are spoken with; the default knows `mautic-ctl`.
        pool_bytes: size of the pool until `ensure_project` gives another.
        memory: bytes of each host, which its running instances fill. One start too many, and LXD is killed: it answers
            no more until `reboot`, and `killed` counts it.
        cores: of each host.
        state: a JSON file that everything is kept in over restarts.

    For tests: `calls` counts the calls by method; `latency` is the seconds that every call takes, or that one
    method takes (`{"copy": 0.2}`); `on_call` is called with (method, arguments) before each call and may raise;
    `memory_of` tells the bytes of memory that a running instance of a name takes, `load` is each host's (None, as of
    LXD 5.0: it tells none); `product` is what the server says it is; `deaf` are instances that do not end by
    themselves, `restless` those under which files vanish in so many snapshots.
    """

    member = ""
    """Where in the cluster new instances come to stand; empty: beside their source, or where the fewest are."""

    def __init__(
        self,
        *,
        members: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        execute: Execute | None = None,
        speak: Speak | None = None,
        pool_bytes: int = 30 * 1024 * MIB,
        memory: int = 512 * 1024 * MIB,
        cores: int = 64,
        state: Path | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.latency: float | Mapping[str, float] = 0.0
        self.on_call: Callable[[str, tuple[Any, ...]], None] | None = None
        self.run: Execute = execute or (lambda *_: ExecResult(0, "", ""))
        self.speak: Speak = speak or self._tenant
        self._clock = clock
        self._state = state
        self._lock = threading.RLock()
        self._faults: list[tuple[str, Exception, bool]] = []
        self.memory_of: Callable[[str], int] = lambda _: TENANT_BYTES
        self.load: float | None = None
        self.killed = 0
        self.product = LXD.name
        self.deaf: set[str] = set()
        self.restless: Counter[str] = Counter()
        self._down = False
        self._world = _World(pool_bytes=pool_bytes, members=sorted(members), memory=memory, cores=cores)
        if state is not None and state.exists():
            self._world = msgspec.json.decode(state.read_bytes(), type=_World)

    def _tenant(self, _lxd: SimulatedLxd, name: str, command: list[str], sent: bytes) -> Iterator[bytes]:
        return run_mautic_ctl(self, name, command, sent, self._clock())

    def fail_next(self, method: str, error: Exception, times: int = 1, *, after: bool = False) -> None:
        """Let the next calls of a method raise; `after`: only when the change is done, as when an answer is lost."""
        with self._lock:
            self._faults.extend([(method, error, after)] * times)

    def set_online(self, member: str, online: bool) -> None:
        """Let a member of the cluster go silent or come back; its containers go on meanwhile."""
        with self._lock:
            others = [name for name in self._world.offline if name != member]
            self._world.offline = others if online else [*others, member]

    def reboot(self) -> list[tuple[float, str]]:
        """Start a host anew, and LXD its instances as it does; return each one's second since then, and its name.

        One after the other, by `boot.autostart.priority`, and after each it waits for `boot.autostart.delay` seconds.
        """
        with self._lock:
            self._down = False
            started: list[tuple[float, str]] = []
            for machine in self._world.machines.values():
                machine.status = "Stopped"
            wanted = [one for one in self._world.machines.values() if one.config.get("boot.autostart") == "true"]
            at = 0.0
            for machine in sorted(
                wanted, key=lambda one: (-int(one.config.get("boot.autostart.priority") or 0), one.name)
            ):
                at += START_SECONDS
                self._boot(self._world, machine, int(self._clock() + at))
                started.append((at, machine.name))
                at += float(machine.config.get("boot.autostart.delay") or 0)
            return started

    def _boot(self, world: _World, machine: _Machine, at: int) -> None:
        """Let one run, if there is memory for it; else the kernel takes LXD's."""
        given = machine.devices.get(NIC, {}).get("ipv4.address") or _free_address(world, machine)
        machine.address = "" if stamp(machine.config, "network-before") else given
        if machine.status != "Running":
            machine.started = at
        machine.status = "Running"
        if self._used(world, machine.location) > world.memory:
            machine.status = "Stopped"
            self._down = True
            self.killed += 1
            raise LxdUnavailable("LXD does not answer: connection refused.")

    def _used(self, world: _World, member: str) -> int:
        """Bytes of memory in use on a host."""
        return HOST_BYTES + sum(
            self.memory_of(machine.name)
            for machine in world.machines.values()
            if machine.status == "Running" and machine.location == member
        )

    def _state_of(self, machine: _Machine) -> InstanceState:
        # As on btrfs: what nothing else shares, whatever the limit counts.
        own = max(0, _bytes(machine) - machine.frozen)
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

    def _delay(self, method: str) -> float:
        return self.latency if isinstance(self.latency, (int, float)) else self.latency.get(method, 0.0)

    @contextmanager
    def _call(self, method: str, *arguments: Any) -> Iterator[_World]:
        """One call: counted, delayed, made to fail when a test wants that, alone in the world, then kept."""
        if self.on_call is not None:
            self.on_call(method, arguments)
        delay = self._delay(method)
        if delay:
            time.sleep(delay)
        with self._lock:
            self.calls[method] += 1
            if self._down:
                raise LxdUnavailable("LXD does not answer: connection refused.")
            fault = next((fault for fault in self._faults if fault[0] == method), None)
            if fault is not None:
                self._faults.remove(fault)
                if not fault[2]:
                    raise fault[1]
            yield self._world
            if self._state is not None and method in _CHANGES:
                part = self._state.with_suffix(".part")
                part.write_bytes(msgspec.json.encode(self._world))
                part.replace(self._state)
            if fault is not None:
                raise fault[1]

    # -- the server ---------------------------------------------------------------------------------------------

    def server(self) -> Server:
        """See `Lxd.server`."""
        with self._call("server") as world:
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
        with self._call("subnet") as world:
            return world.subnet

    def keeps_in(self) -> bool:
        """See `Lxd.keeps_in`."""
        with self._call("keeps_in") as world:
            return world.closed

    def members(self) -> list[Member]:
        """See `Lxd.members`."""
        with self._call("members") as world:
            return [
                Member(name, f"https://{name}:8443", name not in world.offline, _MEMBER_SAYS[name in world.offline])
                for name in world.members
            ]

    def at(self, member: str) -> SimulatedLxd:
        """See `Lxd.at`."""
        return _OnMember(self, member)

    def pool(self) -> PoolSpace:
        """See `Lxd.pool`."""
        with self._call("pool") as world:
            return PoolSpace(used=_used(world, self.member), total=world.pool_bytes)

    def quotas(self, name: str) -> Quotas | None:
        """See `Lxd.quotas`."""
        doing = f"look at the quotas of `{name}`"
        with self._call("quotas", name) as world:
            machine = _find(world, name, doing)
            _running(machine, doing)
            return Quotas(f"simulated-{machine.location}", machine.location not in world.uncounted)

    def recount(self, name: str, filesystem: str) -> None:
        """See `Lxd.recount`."""
        doing = f"count anew the pool of `{name}`"
        with self._call("recount", name) as world:
            machine = _find(world, name, doing)
            _running(machine, doing)
            if filesystem != f"simulated-{machine.location}":
                raise LxdError(f"LXD could not {doing}: it is on another machine.")
            world.uncounted = [member for member in world.uncounted if member != machine.location]

    def root_path(self, name: str) -> str:
        """See `Lxd.root_path`."""
        doing = f"find the root of `{name}`"
        with self._call("root_path", name) as world:
            _running(_find(world, name, doing), doing)
            return f"/proc/{1000 + sorted(world.machines).index(name)}/root"

    def resources(self) -> Resources:
        """See `Lxd.resources`. Without a member, of a cluster the first one's, as the one that was asked."""
        with self._call("resources") as world:
            member = self.member or next(iter(world.members), "")
            if member in world.offline:
                raise LxdUnavailable(f"LXD could not measure the host's memory now: {member} is offline.")
            used, took = self._used(world, member), self._delay("resources")
            return Resources(world.memory, used, world.cores, self.load, took)

    def ensure_project(self, *, pool_driver: str, pool_size: str, subnet: str, ways: Sequence[str] = ()) -> None:
        """See `Lxd.ensure_project`."""
        edge_address(subnet)
        with self._call("ensure_project") as world:
            world.pool_bytes = size_bytes(pool_size)
            world.subnet = subnet
            world.closed = True

    def unclose(self) -> None:
        """Let the bridge be as an earlier bot made it, for tests."""
        with self._lock:
            self._world.closed = False

    # -- reading instances --------------------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """See `Lxd.instances`."""
        with self._call("instances") as world:
            return [_instance(world, world.machines[name]) for name in sorted(world.machines)]

    def instance(self, name: str) -> Instance:
        """See `Lxd.instance`."""
        with self._call("instance", name) as world:
            return _instance(world, _find(world, name, f"read `{name}`"))

    def states(self) -> dict[str, InstanceState]:
        """See `Lxd.states`."""
        with self._call("states") as world:
            return {name: self._state_of(machine) for name, machine in world.machines.items()}

    def state(self, name: str) -> InstanceState:
        """See `Lxd.state`."""
        with self._call("state", name) as world:
            return self._state_of(_find(world, name, f"read the state of `{name}`"))

    def survey(self) -> list[Whole]:
        """See `Lxd.survey`."""
        with self._call("survey") as world:
            return [
                Whole(_instance(world, machine), self._state_of(machine), tuple(map(_snapshot, machine.snapshots)))
                for _, machine in sorted(world.machines.items())
            ]

    # -- changing instances -------------------------------------------------------------------------------------

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
        with self._call("copy", source, name) as world:
            origin, _, snapshot = source.partition("/")
            found: _Machine | _Snapshot = _find(world, origin, doing)
            if snapshot:
                found = _find_snapshot(_find(world, origin, doing), snapshot, doing)
            member = self.member or world.machines[origin].location
            made = self._add(
                world,
                name,
                {**_lasting(found.config), **config},
                {**{key: device for key, device in found.devices.items() if key != NIC}, **devices},
                found.profiles,
                CLONE_BYTES,
                doing,
                member,
            )
            made.files, made.base = dict(found.files), world.machines[origin].base + world.machines[origin].bytes

    def receive(
        self,
        source: SimulatedLxd,
        instance: str,
        name: str,
        *,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
        refresh: bool = False,
    ) -> None:
        """See `Lxd.receive`. On the source it counts as `send`."""
        doing = f"copy `{instance}` to `{name}`"
        with source._call("send", instance) as theirs:
            sent = deepcopy(_find(theirs, instance, doing))
        if not takes(self.product, source.product):
            raise LxdError(f"{self.product} could not {doing}: it takes no containers from {source.product}.")
        with self._call("receive", instance, name) as world:
            if refresh:
                machine = _find(world, name, doing)
                _stopped(machine, doing)
                machine.config |= {key: value for key, value in config.items() if value}
                machine.devices |= {key: dict(device) for key, device in devices.items()}
            else:
                machine = self._add(
                    world,
                    name,
                    {**_lasting(sent.config), **config},
                    {**{key: device for key, device in sent.devices.items() if key != NIC}, **devices},
                    sent.profiles,
                    sent.bytes,
                    doing,
                    self.member,
                )
            # Nothing is shared with what it was cloned from over there.
            machine.bytes, machine.files, machine.snapshots = sent.base + sent.bytes, sent.files, sent.snapshots
            machine.frozen = machine.bytes if machine.snapshots else 0

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """See `Lxd.create`."""
        doing = f"create `{name}` from the image `{image}`"
        with self._call("create", name, image) as world:
            known = world.images.get(world.aliases.get(image, image))
            if known is None:
                raise NotFound(f"LXD could not {doing}: there is no such image.")
            stamped = {f"image.{key}": value for key, value in known.properties.items()}
            size = max(known.bytes, MIB)
            self._add(world, name, {**stamped, **config}, devices, ["mautic-ops"], size, doing, self.member)

    def _add(
        self,
        world: _World,
        name: str,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
        profiles: list[str],
        size: int,
        doing: str,
        member: str,
    ) -> _Machine:
        if not _NAME.match(name):
            raise LxdError(f"LXD could not {doing}: the name may have letters, digits and hyphens only.")
        if name in world.machines:
            raise AlreadyExists(f"LXD could not {doing}: that name is already taken.")
        standing = Counter(machine.location for machine in world.machines.values())
        member = member or min(world.members, key=lambda name: standing[name], default="")
        _room(world, size, doing, member)
        mac = "00:16:3e:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))  # noqa: S311 (not a secret)
        world.machines[name] = machine = _Machine(
            name=name,
            status="Stopped",
            config={**{key: value for key, value in config.items() if value}, "volatile.eth0.hwaddr": mac},
            devices={key: dict(device) for key, device in devices.items()},
            profiles=list(profiles),
            created=int(self._clock()),
            bytes=size,
            location=member,
        )
        if NIC not in machine.devices:
            machine.devices[NIC] = {"type": "nic", "ipv4.address": _free_address(world, machine)}
        return machine

    def pin(self, name: str) -> str:
        """See `Lxd.pin`."""
        with self._call("pin", name) as world:
            machine = _find(world, name, f"give `{name}` an address")
            nic = machine.devices.setdefault(NIC, {"type": "nic"})
            if "ipv4.address" not in nic:
                nic["ipv4.address"] = machine.address or _free_address(world, machine)
            return nic["ipv4.address"]

    def unpin(self, name: str) -> None:
        """Let it be as one from a time when LXD alone gave addresses, for tests."""
        with self._lock:
            del _find(self._world, name, f"update `{name}`").devices[NIC]

    def claim(self, name: str, address: str) -> None:
        """Let an instance take an address inside, for tests; the network goes on as before."""
        with self._lock:
            _find(self._world, name, f"update `{name}`").address = address

    def start(self, name: str) -> None:
        """See `Lxd.start`."""
        with self._call("start", name) as world:
            doing = f"start `{name}`"
            machine = _find(world, name, doing)
            nic = machine.devices.get(NIC, {})
            if machine.status != "Running" and nic.get("ipv4.address") in _given(world, machine):
                nic["ipv4.address"] = _free_address(world, machine)
            _fits(world, machine, machine.devices, 1, doing)
            self._boot(world, machine, int(self._clock()))

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """See `Lxd.stop`."""
        with self._call("stop", name) as world:
            doing = f"stop `{name}`"
            machine = _find(world, name, doing)
            if machine.status != "Stopped" and name in self.deaf and not force:
                raise LxdError(f'LXD could not {doing}: Failed shutting down instance, status is "Running".')
            machine.status = "Stopped"

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """See `Lxd.restart`."""
        doing = f"restart `{name}`"
        with self._call("restart", name) as world:
            machine = _find(world, name, doing)
            _running(machine, doing)
            self._boot(world, machine, int(self._clock()))
            machine.started = int(self._clock())

    def thaw(self, name: str) -> None:
        """See `Lxd.thaw`."""
        with self._call("thaw", name) as world:
            machine = _find(world, name, f"unfreeze `{name}`")
            if machine.status == "Frozen":
                machine.status = "Running"

    def isolate(self, name: str) -> None:
        """See `Lxd.isolate`."""
        with self._call("isolate", name) as world:
            machine = _find(world, name, f"update `{name}`")
            if not put_back(machine.config):
                facts, device = taken_off(_instance(world, machine))
                machine.config |= facts
                machine.devices[NIC] = device
                machine.address = ""

    def rejoin(self, name: str) -> None:
        """See `Lxd.rejoin`."""
        with self._call("rejoin", name) as world:
            machine = _find(world, name, f"update `{name}`")
            if before := put_back(machine.config):
                facts, device = before
                laid = {**machine.config, **facts}
                machine.config = {key: value for key, value in laid.items() if value}
                del machine.devices[NIC]
                machine.devices |= {NIC: device} if device else {}
                if machine.status == "Running":
                    machine.address = (device or {}).get("ipv4.address") or _free_address(world, machine)

    def rename(self, name: str, new_name: str) -> None:
        """See `Lxd.rename`."""
        doing = f"rename `{name}` to `{new_name}`"
        with self._call("rename", name, new_name) as world:
            machine = _find(world, name, doing)
            if new_name in world.machines:
                raise AlreadyExists(f"LXD could not {doing}: that name is already taken.")
            if not _NAME.match(new_name):
                raise LxdError(f"LXD could not {doing}: the name may have letters, digits and hyphens only.")
            _stopped(machine, doing)
            machine.name = new_name
            world.machines[new_name] = world.machines.pop(name)

    def delete(self, name: str) -> None:
        """See `Lxd.delete`."""
        doing = f"delete `{name}`"
        with self._call("delete", name) as world:
            machine = _find(world, name, doing)
            if machine.config.get("security.protection.delete") == "true":
                raise LxdError(f"LXD could not {doing}: Instance is protected.")
            _stopped(machine, doing)
            if machine.unknown:
                raise LxdError(
                    f"LXD could not {doing}: the pool holds snapshots of it that LXD does not know. On its host, "
                    f"`btrfs subvolume delete /var/lib/lxd/storage-pools/pool/containers-snapshots/{name}/*` removes "
                    "them; then try again."
                )
            del world.machines[name]

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """See `Lxd.update`."""
        doing = f"update `{name}`"
        with self._call("update", name) as world:
            machine = _find(world, name, doing)
            laid: Mapping[str, str | None] = {**machine.config, **config}
            attached = {**machine.devices, **(devices or {})}
            kept = {key: dict(device) for key, device in attached.items() if device}
            if kept.get("root") != machine.devices.get("root"):
                # Not even another limit can be written down where the present one is exceeded.
                _fits(world, machine, machine.devices, 0, doing)
            if kept.get("root") != machine.devices.get("root"):
                try:
                    _fits(world, machine, kept, 1, doing)
                except PoolFull:
                    # Too small a size holds all the same.
                    machine.devices = kept
                    raise
            machine.config = {key: value for key, value in laid.items() if value}
            machine.devices = kept

    def snapshot(
        self,
        name: str,
        snapshot: str,
        *,
        config: Mapping[str, str] | None = None,
        within: AbstractContextManager[object] | None = None,
        still: bool = False,
    ) -> None:
        """See `Lxd.snapshot`."""
        doing = f"take the snapshot `{snapshot}` of `{name}`"
        with within or nullcontext(), self._call("snapshot", name, snapshot) as world:
            machine = _find(world, name, doing)
            if any(known.name == snapshot for known in machine.snapshots):
                raise AlreadyExists(f"LXD could not {doing}: that name is already taken.")
            _room(world, MIB, doing, machine.location)
            _fits(world, machine, machine.devices, 1, doing)
            if snapshot in machine.unknown:
                raise LxdError(f"LXD could not {doing}: the pool holds one of that name already.")
            if machine.status == "Running" and not still and self.restless[name] > 0:
                self.restless[name] -= 1
                machine.unknown.append(snapshot)
                raise Vanished(f"LXD could not {doing}: files went away while it was taken.")
            machine.snapshots.append(
                _Snapshot(
                    name=snapshot,
                    created=int(self._clock()),
                    config={**machine.config, **(config or {})},
                    devices={key: dict(device) for key, device in machine.devices.items()},
                    profiles=list(machine.profiles),
                    files=dict(machine.files),
                )
            )
            machine.frozen = _bytes(machine)

    def snapshots(self, name: str) -> list[Snapshot]:
        """See `Lxd.snapshots`."""
        with self._call("snapshots", name) as world:
            machine = _find(world, name, f"list the snapshots of `{name}`")
            return list(map(_snapshot, machine.snapshots))

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `Lxd.delete_snapshot`."""
        doing = f"delete the snapshot `{snapshot}` of `{name}`"
        with self._call("delete_snapshot", name, snapshot) as world:
            machine = _find(world, name, doing)
            found = _find_snapshot(machine, snapshot, doing)
            # Removing needs a little room too.
            _room(world, 1, doing, machine.location)
            machine.snapshots.remove(found)
            if not machine.snapshots:
                machine.frozen = 0

    # -- inside instances ---------------------------------------------------------------------------------------

    def fill(self, name: str, amount: int) -> None:
        """Let an instance's own bytes be so many, for tests; more than its limit lets it have are not taken."""
        with self._lock:
            machine = _find(self._world, name, f"fill `{name}`")
            machine.bytes = amount
            used, limit = self.quota(name)
            machine.bytes -= max(0, used - limit) if used and limit else 0

    def stop_counting(self, member: str = "") -> None:
        """Let the quotas of a pool be inconsistent, as a kernel does that has deleted much, until they are counted."""
        with self._lock:
            self._world.uncounted.append(member)

    def rewrite(self, name: str, amount: int, *, shared: bool = False) -> None:
        """Let an instance write so many bytes anew, for tests: its newest snapshot alone still has the old ones.

        `shared`: it and the one before have them, so that no size tells of them.
        """
        with self._lock:
            machine = _find(self._world, name, f"fill `{name}`")
            _room(self._world, amount, f"write in `{name}`", machine.location)
            machine.frozen = max(0, machine.frozen - amount)
            if machine.snapshots and shared:
                machine.snapshots[-1].shared += amount
            elif machine.snapshots:
                machine.snapshots[-1].held += amount

    def quota(self, name: str) -> tuple[int | None, int | None]:
        """Return the bytes that an instance refers to (None: not counted) and their limit, as can be seen inside."""
        with self._lock:
            machine = _find(self._world, name, f"read `{name}`")
            limit = machine.devices.get("root", {}).get("size")
            used = None if machine.location in self._world.uncounted else machine.base + _bytes(machine)
            return used, size_bytes(limit) if limit else None

    def execute(
        self,
        name: str,
        command: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: int = 0,
        timeout: int = 120,
    ) -> ExecResult:
        """See `Lxd.execute`."""
        doing = f"run `{PurePosixPath(command[0]).name}` in `{name}`"
        if self._delay("execute") > timeout:
            raise LxdUnavailable(f"LXD did not {doing} within {timeout} seconds.")
        with self._call("execute", name, command) as world:
            _running(_find(world, name, doing), doing)
        # Outside the lock: other instances go on while a command runs.
        return self.run(self, name, command, environment or {})

    @contextmanager
    def talk(self, name: str, command: list[str], *, timeout: float = 120, limit: int) -> Iterator[_Talk]:
        """See `Lxd.talk`. It is an `execute` to who counts, delays or breaks calls."""
        doing = f"run `{PurePosixPath(command[0]).name}` in `{name}`"
        if self._delay("execute") > timeout:
            raise TenantAnswerError(f"`{name}` did not answer within {timeout:.0f} seconds.")
        with self._call("execute", name, command) as world:
            _running(_find(world, name, doing), doing)
        yield _Talk(name, lambda sent: self.speak(self, name, command, sent), limit)

    def sweep(self) -> None:
        """See `Lxd.sweep`. Nothing stays here."""
        with self._call("sweep"):
            pass

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """See `Lxd.push`. Every folder is taken to be there."""
        doing = f"write `{path}` in `{name}`"
        with self._call("push", name, path) as world:
            machine = _find(world, name, doing)
            if not path.startswith(_UNCOUNTED):
                _room(world, len(content), doing, machine.location)
                _fits(world, machine, machine.devices, len(content), doing)
            machine.files[path] = _File(bytes(content), mode, uid, gid)

    def pad(self, name: str, path: str, size: int) -> None:
        """See `Lxd.pad`. It is counted, and not kept."""
        doing = f"write `{path}` in `{name}`"
        with self._call("pad", name, path) as world:
            machine = _find(world, name, doing)
            _room(world, size, doing, machine.location)
            machine.padding[path] = size

    def pull(self, name: str, path: str) -> bytes:
        """See `Lxd.pull`."""
        with self._call("pull", name, path) as world:
            machine = _find(world, name, f"read `{path}` in `{name}`")
            if path not in machine.files:
                raise NotFound(f"There is no `{path}` in `{name}`.")
            return machine.files[path].content

    def remove(self, name: str, path: str) -> None:
        """See `Lxd.remove`."""
        with self._call("remove", name, path) as world:
            machine = _find(world, name, f"delete `{path}` in `{name}`")
            machine.files.pop(path, None)
            machine.padding.pop(path, None)

    # -- images -------------------------------------------------------------------------------------------------

    def image(self, alias: str) -> Mapping[str, str] | None:
        """See `Lxd.image`."""
        with self._call("image", alias) as world:
            found = world.images.get(world.aliases.get(alias, ""))
            return None if found is None else {**found.properties, "fingerprint": found.fingerprint}

    def import_image(self, path: str, alias: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.import_image`."""
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"There is no image file {path}.") from error
        fingerprint = hashlib.sha256(content).hexdigest()
        with self._call("import_image", path, alias) as world:
            world.images.setdefault(fingerprint, _Image(fingerprint, len(content), dict(properties)))
            world.aliases[alias] = fingerprint
            return fingerprint

    def export_image(self, source: str, alias: str, path: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.export_image`. The file says what it would hold."""
        doing = f"publish `{source}` as the image `{alias}`"
        name, _, snapshot = source.partition("/")
        with self._call("export_image", source, alias, path) as world:
            machine = _find(world, name, doing)
            found = _find_snapshot(machine, snapshot, doing) if snapshot else machine
            if not snapshot:
                _stopped(machine, doing)
            content = msgspec.json.encode({"simulated image": found, "properties": dict(properties)})
            Path(path).write_bytes(content)
            fingerprint = hashlib.sha256(content).hexdigest()
            world.images[fingerprint] = _Image(fingerprint, len(content), dict(properties))
            world.aliases[alias] = fingerprint
            return fingerprint


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


class _OnMember(SimulatedLxd):
    """The same server with all that a test set on it, where what is new comes to stand on one member."""

    __slots__ = ("member",)

    def __init__(self, server: SimulatedLxd, member: str) -> None:
        self.__dict__ = server.__dict__
        self.member = member


def _instance(world: _World, machine: _Machine) -> Instance:
    return Instance(
        name=machine.name,
        status="Error" if machine.location in world.offline else machine.status,
        config=dict(machine.config),
        devices={key: dict(device) for key, device in machine.devices.items()},
        profiles=tuple(machine.profiles),
        location=machine.location,
        created=machine.created,
        started=machine.started,
    )


def _snapshot(found: _Snapshot) -> Snapshot:
    return Snapshot(name=found.name, created=found.created, config=dict(found.config), size=found.held)


def _find(world: _World, name: str, doing: str) -> _Machine:
    if name not in world.machines:
        raise NotFound(f"LXD could not {doing}: there is no instance `{name}`.")
    machine = world.machines[name]
    if machine.location in world.offline:
        raise LxdUnavailable(f"LXD could not {doing} now: {machine.location} is offline.")
    return machine


def _find_snapshot(machine: _Machine, snapshot: str, doing: str) -> _Snapshot:
    for found in machine.snapshots:
        if found.name == snapshot:
            return found
    raise NotFound(f"LXD could not {doing}: `{machine.name}` has no snapshot `{snapshot}`.")


def _running(machine: _Machine, doing: str) -> None:
    if machine.status != "Running":
        raise LxdError(f"LXD could not {doing}: Instance is not running.")


def _stopped(machine: _Machine, doing: str) -> None:
    if machine.status != "Stopped":
        raise LxdError(f"LXD could not {doing}: Instance is running.")


def _lasting(config: Mapping[str, str]) -> dict[str, str]:
    """What of a configuration a copy keeps."""
    return {key: value for key, value in config.items() if not key.startswith("volatile.")}


def _bytes(machine: _Machine) -> int:
    counted = (file for path, file in machine.files.items() if not path.startswith(_UNCOUNTED))
    return machine.bytes + sum(len(file.content) for file in counted) + sum(machine.padding.values())


def _fits(world: _World, machine: _Machine, devices: Mapping[str, Mapping[str, str]], needed: int, doing: str) -> None:
    """Raise PoolFull where the limit of its disk is reached: it counts all that it refers to, while it counts."""
    limit = devices.get("root", {}).get("size")
    if (
        limit
        and machine.location not in world.uncounted
        and machine.base + _bytes(machine) + needed > size_bytes(limit)
    ):
        raise PoolFull(_FULL.format(doing))


def _used(world: _World, member: str) -> int:
    """Bytes of the pool of a member, or of the server where there is no cluster."""
    return sum(
        _bytes(machine) + sum(one.held + one.shared for one in machine.snapshots)
        for machine in world.machines.values()
        if member in ("", machine.location)
    )


def _room(world: _World, needed: int, doing: str, member: str) -> None:
    if _used(world, member) + needed > world.pool_bytes:
        raise PoolFull(_FULL.format(doing))


def _given(world: _World, machine: _Machine) -> set[str]:
    """The addresses of all others."""
    others = [other for other in world.machines.values() if other is not machine]
    return {kept(other.config, other.devices) or other.address for other in others}


def _free_address(world: _World, machine: _Machine) -> str:
    taken = _given(world, machine)
    network = ipaddress.ip_interface(world.subnet).network
    try:
        return choose(world.subnet, machine.name, taken)
    except LxdError:
        # A fleet larger than the bridge's subnet goes on in the addresses behind it: nothing here is ever routed.
        address = network[-1] + 1
        while str(address) in taken:
            address += 1
        return str(address)
