"""Changes instances of a simulated LXD server: power, address, configuration, name, snapshots, deletion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from bot.lxd.protocol import AlreadyExists, LxdError, LxdUnavailable, PoolFull
from bot.lxd.simulated.server import SimulatedServer
from bot.lxd.simulated.world import MIB, File, Machine, Taken, must_be_a_name
from bot.lxd.wire import NIC, put_back, taken_off
from bot.model.labels import label_of

Lay = Callable[[Mapping[str, str]], Mapping[str, bytes]]


class SimulatedChanges(SimulatedServer):
    """The part of `SimulatedLxd` that changes instances. `lay`: see `SimulatedLxd`."""

    lay: Lay

    # -- power --------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """See `Lxd.start`."""
        with self.call("start", name) as world:
            doing = f"start `{name}`"
            machine = world.find(name, doing)
            nic = machine.devices.get(NIC, {})
            if machine.status != "Running" and nic.get("ipv4.address") in world.given(machine):
                nic["ipv4.address"] = world.free_address(machine)
            world.must_fit(machine, 1, doing)
            self.boot(machine, int(self.clock()))

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """See `Lxd.stop`."""
        with self.call("stop", name) as world:
            world.find(name, f"stop `{name}`").status = "Stopped"

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """See `Lxd.restart`."""
        doing = f"restart `{name}`"
        with self.call("restart", name) as world:
            machine = world.find(name, doing)
            machine.must_run(doing)
            self.boot(machine, int(self.clock()))
            machine.started = int(self.clock())

    def thaw(self, name: str) -> None:
        """See `Lxd.thaw`."""
        with self.call("thaw", name) as world:
            machine = world.find(name, f"unfreeze `{name}`")
            if machine.status == "Frozen":
                machine.status = "Running"

    def boot(self, machine: Machine, at: int) -> None:
        """Start an instance where there is memory for it; otherwise the kernel kills LXD, which answers no more.

        Raises LxdUnavailable in that case.
        """
        given = machine.devices.get(NIC, {}).get("ipv4.address") or self.world.free_address(machine)
        machine.address = "" if label_of(machine.config, "network-before") else given
        if machine.status != "Running":
            machine.started = at
        machine.status = "Running"
        for path, content in self.lay(machine.config).items():
            machine.files.setdefault(path, File(content, 0o644, 0, 0))
        if self.memory_used(machine.location) > self.world.memory:
            machine.status = "Stopped"
            self.down = True
            raise LxdUnavailable("LXD does not answer: connection refused.")

    # -- address ------------------------------------------------------------------------------------------------

    def pin(self, name: str) -> str:
        """See `Lxd.pin`."""
        with self.call("pin", name) as world:
            machine = world.find(name, f"give `{name}` an address")
            nic = machine.devices.setdefault(NIC, {"type": "nic"})
            if "ipv4.address" not in nic:
                nic["ipv4.address"] = machine.address or world.free_address(machine)
            return nic["ipv4.address"]

    def isolate(self, name: str) -> None:
        """See `Lxd.isolate`."""
        with self.call("isolate", name) as world:
            machine = world.find(name, f"update `{name}`")
            if not put_back(machine.config):
                facts, device = taken_off(machine.told())
                machine.config |= facts
                machine.devices[NIC] = device
                machine.address = ""

    def rejoin(self, name: str) -> None:
        """See `Lxd.rejoin`."""
        with self.call("rejoin", name) as world:
            machine = world.find(name, f"update `{name}`")
            if before := put_back(machine.config):
                facts, device = before
                laid = {**machine.config, **facts}
                machine.config = {key: value for key, value in laid.items() if value}
                del machine.devices[NIC]
                machine.devices |= {NIC: device} if device else {}
                if machine.status == "Running":
                    machine.address = (device or {}).get("ipv4.address") or world.free_address(machine)

    # -- configuration, name and deletion -----------------------------------------------------------------------

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """See `Lxd.update`."""
        doing = f"update `{name}`"
        with self.call("update", name) as world:
            machine = world.find(name, doing)
            laid: Mapping[str, str | None] = {**machine.config, **config}
            attached = {**machine.devices, **(devices or {})}
            kept = {key: dict(device) for key, device in attached.items() if device}
            if kept.get("root") != machine.devices.get("root"):
                # A disk that exceeds its present limit has no space to record even a new limit.
                world.must_fit(machine, 0, doing)
                try:
                    world.must_fit(machine, 1, doing, kept)
                except PoolFull:
                    # A size that is too small applies all the same.
                    machine.devices = kept
                    raise
            machine.config = {key: value for key, value in laid.items() if value}
            machine.devices = kept

    def rename(self, name: str, new_name: str) -> None:
        """See `Lxd.rename`."""
        doing = f"rename `{name}` to `{new_name}`"
        with self.call("rename", name, new_name) as world:
            machine = world.find(name, doing)
            if new_name in world.machines:
                raise AlreadyExists(f"LXD could not {doing}: that name is already taken.")
            must_be_a_name(new_name, doing)
            machine.must_be_stopped(doing)
            machine.name = new_name
            world.machines[new_name] = world.machines.pop(name)

    def delete(self, name: str) -> None:
        """See `Lxd.delete`."""
        doing = f"delete `{name}`"
        with self.call("delete", name) as world:
            machine = world.find(name, doing)
            if machine.config.get("security.protection.delete") == "true":
                raise LxdError(f"LXD could not {doing}: Instance is protected.")
            machine.must_be_stopped(doing)
            if machine.unknown:
                raise LxdError(
                    f"LXD could not {doing}: the pool holds snapshots of it that LXD does not know. On its host, "
                    f"`btrfs subvolume delete /var/lib/lxd/storage-pools/pool/containers-snapshots/{name}/*` removes "
                    "them; then try again."
                )
            del world.machines[name]

    # -- snapshots ----------------------------------------------------------------------------------------------

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
        """See `Lxd.snapshot`."""
        doing = f"take the snapshot `{snapshot}` of `{name}`"
        with within or nullcontext(), self.call("snapshot", name, snapshot) as world:
            machine = world.find(name, doing)
            if any(known.name == snapshot for known in machine.snapshots):
                raise AlreadyExists(f"LXD could not {doing}: that name is already taken.")
            world.must_have(MIB, doing, machine.location)
            world.must_fit(machine, 1, doing)
            if snapshot in machine.unknown:
                raise LxdError(f"LXD could not {doing}: the pool holds one of that name already.")
            machine.snapshots.append(
                Taken(
                    name=snapshot,
                    created=int(self.clock()),
                    config={**machine.config, **(config or {})},
                    devices={key: dict(device) for key, device in machine.devices.items()},
                    profiles=list(machine.profiles),
                    files=dict(machine.files),
                )
            )
            machine.frozen = machine.written()

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `Lxd.delete_snapshot`."""
        doing = f"delete the snapshot `{snapshot}` of `{name}`"
        with self.call("delete_snapshot", name, snapshot) as world:
            machine = world.find(name, doing)
            found = machine.taken(snapshot, doing)
            # Deleting needs a little free space too.
            world.must_have(1, doing, machine.location)
            machine.snapshots.remove(found)
            if not machine.snapshots:
                machine.frozen = 0
