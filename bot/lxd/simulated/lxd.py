"""The `Lxd` protocol in memory: for tests, and for trying the bot where no LXD can run."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import msgspec

from bot.lxd.products import takes
from bot.lxd.protocol import AlreadyExists, ExecResult, LxdError, NotFound
from bot.lxd.simulated.changes import Lay, SimulatedChanges
from bot.lxd.simulated.inside import Execute, SimulatedInside, Speak
from bot.lxd.simulated.world import MIB, Image, Machine, Taken, World, must_be_a_name
from bot.lxd.wire import NIC

CLONE_BYTES = 12 * MIB
"""The bytes that a copy-on-write clone owns at first."""


class SimulatedLxd(SimulatedChanges, SimulatedInside):
    """One LXD server in memory, or a cluster. Safe for many threads.

    Args:
        members: names of the cluster's members; each has a pool of its own.
        clock: returns epoch seconds.
        execute: answers commands inside instances; by default all end with 0.
        speak: plays the commands of conversations; by default they end without output.
        lay: returns the files that an instance with this configuration creates when it boots, where they are missing.
        pool_bytes: size of the pool until `ensure_project` sets another.
        memory: bytes of each host, which its running instances fill. One start too many kills LXD, which then answers
            no more.
        cores: of each host.
        state: a JSON file that keeps everything across restarts.
    """

    def __init__(
        self,
        *,
        members: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        execute: Execute | None = None,
        speak: Speak | None = None,
        lay: Lay | None = None,
        pool_bytes: int = 30 * 1024 * MIB,
        memory: int = 512 * 1024 * MIB,
        cores: int = 64,
        state: Path | None = None,
    ) -> None:
        super().__init__(members=members, clock=clock, pool_bytes=pool_bytes, memory=memory, cores=cores, state=state)
        self.run = execute or (lambda *_: ExecResult(0, "", ""))
        self.speak = speak or (lambda *_: iter(()))
        self.lay = lay or (lambda config: {})

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
        with self.call("copy", source, name) as world:
            origin, _, snapshot = source.partition("/")
            found: Machine | Taken = world.find(origin, doing)
            if snapshot:
                found = world.find(origin, doing).taken(snapshot, doing)
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
        """See `Lxd.receive`. The source counts it as a call of `send`."""
        doing = f"copy `{instance}` to `{name}`"
        with source.call("send", instance) as theirs:
            sent = deepcopy(theirs.find(instance, doing))
        if not takes(self.product, source.product):
            raise LxdError(f"{self.product} could not {doing}: it takes no containers from {source.product}.")
        with self.call("receive", instance, name) as world:
            if refresh:
                machine = world.find(name, doing)
                machine.must_be_stopped(doing)
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
            # The copy shares nothing with what the source was cloned from.
            machine.bytes, machine.files, machine.snapshots = sent.base + sent.bytes, sent.files, sent.snapshots
            machine.frozen = machine.bytes if machine.snapshots else 0

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """See `Lxd.create`."""
        doing = f"create `{name}` from the image `{image}`"
        with self.call("create", name, image) as world:
            known = world.images.get(world.aliases.get(image, image))
            if known is None:
                raise NotFound(f"LXD could not {doing}: there is no such image.")
            stamped = {f"image.{key}": value for key, value in known.properties.items()}
            size = max(known.bytes, MIB)
            self._add(world, name, {**stamped, **config}, devices, ["mautic-ops"], size, doing, self.member)

    def _add(
        self,
        world: World,
        name: str,
        config: Mapping[str, str],
        devices: Mapping[str, Mapping[str, str]],
        profiles: list[str],
        size: int,
        doing: str,
        member: str,
    ) -> Machine:
        must_be_a_name(name, doing)
        if name in world.machines:
            raise AlreadyExists(f"LXD could not {doing}: that name is already taken.")
        standing = Counter(machine.location for machine in world.machines.values())
        member = member or min(world.members, key=lambda name: standing[name], default="")
        world.must_have(size, doing, member)
        mac = "00:16:3e:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))  # noqa: S311 (not a secret)
        machine = Machine(
            name=name,
            status="Stopped",
            config={**{key: value for key, value in config.items() if value}, "volatile.eth0.hwaddr": mac},
            devices={key: dict(device) for key, device in devices.items()},
            profiles=list(profiles),
            created=int(self.clock()),
            bytes=size,
            location=member,
        )
        if NIC not in machine.devices:
            machine.devices[NIC] = {"type": "nic", "ipv4.address": world.free_address(machine)}
        world.machines[name] = machine
        return machine

    # -- images -------------------------------------------------------------------------------------------------

    def image(self, alias: str) -> Mapping[str, str] | None:
        """See `Lxd.image`."""
        with self.call("image", alias) as world:
            found = world.images.get(world.aliases.get(alias, ""))
            return None if found is None else {**found.properties, "fingerprint": found.fingerprint}

    def import_image(self, path: str, alias: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.import_image`."""
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"There is no image file {path}.") from error
        fingerprint = hashlib.sha256(content).hexdigest()
        with self.call("import_image", path, alias) as world:
            world.images.setdefault(fingerprint, Image(fingerprint, len(content), dict(properties)))
            world.aliases[alias] = fingerprint
            return fingerprint

    def export_image(self, source: str, alias: str, path: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.export_image`. The file is a JSON description of what the image would hold."""
        doing = f"publish `{source}` as the image `{alias}`"
        name, _, snapshot = source.partition("/")
        with self.call("export_image", source, alias, path) as world:
            machine = world.find(name, doing)
            found = machine.taken(snapshot, doing) if snapshot else machine
            if not snapshot:
                machine.must_be_stopped(doing)
            content = msgspec.json.encode({"simulated image": found, "properties": dict(properties)})
            Path(path).write_bytes(content)
            fingerprint = hashlib.sha256(content).hexdigest()
            world.images[fingerprint] = Image(fingerprint, len(content), dict(properties))
            world.aliases[alias] = fingerprint
            return fingerprint


def _lasting(config: Mapping[str, str]) -> dict[str, str]:
    """Return what a copy keeps of a configuration."""
    return {key: value for key, value in config.items() if not key.startswith("volatile.")}
