"""The `Lxd` protocol over a real server."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlencode

from bot import btrfs
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
    Talk,
    Vanished,
    Whole,
)
from bot.lxd_bridge import PROFILE, Bridge, unfiltered
from bot.lxd_connection import FILES_GONE, LONG, SHORT, AddressTaken, Busy, Held, LxdConnection, Stale, path_of
from bot.lxd_leftovers import Leftovers
from bot.lxd_talk import conversation
from bot.lxd_transfer import End, transfer
from bot.products import called, takes
from bot.wire import NIC, bounds, given, kept, put_back, taken_off

log = logging.getLogger(__name__)

FREEZING = 10
"""Seconds that a container may take to stand still for a snapshot; then it is taken of one that moves."""
RELEASED = 60
"""Seconds that snapshots of what is to be deleted may still be sent to another host, for a copy that was given up."""
MOST = 64 << 20
"""Bytes that a file, or a command's output, may have to be read."""

_LASTS = ("config", "devices", "profiles", "location", "created_at", "last_used_at")
"""What an instance still is while its host does not answer."""
_WRITTEN = 0.1
"""Seconds that LXD's helper for files takes to have the pool write down what it changed. A start that comes before ends
the helper, which then looks only once a second whether it may end (20 to 75 ms were measured beside a copy)."""


class LxdGateway:
    """One LXD server (or cluster, through any member), within the bot's own project. Safe for many threads.

    Args:
        endpoint: the path of a unix socket, or `https://host:8443`.
        certificate: paths of the client certificate and key, for https.
        server_certificate: path of the server's own certificate, which is then the only one that is trusted.
        timeout: seconds until a single request must have been answered.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        project: str = "mautic-ops",
        pool: str = "mautic-ops",
        network: str = "mopsbr0",
        profile: str = "mautic-ops",
        certificate: tuple[str, str] | None = None,
        server_certificate: str | None = None,
        timeout: float = 15.0,
    ) -> None:
        if len(network) > 15:
            raise LxdError(f"The bridge name `{network}` is longer than the 15 characters that Linux allows.")
        self.endpoint = endpoint
        self._lxd = LxdConnection(
            endpoint,
            project=project,
            pool=pool,
            certificate=certificate,
            server_certificate=server_certificate,
            timeout=timeout,
        )
        self._project = project
        self._pool = pool
        self._network = network
        self._profile = profile
        self._bridge = Bridge(self._lxd, network, profile)
        self._member = ""
        self._leftovers = Leftovers(self._lxd, project, pool)
        self._lock = threading.Lock()
        self._update_locks: dict[str, threading.Lock] = {}
        self._changed: dict[str, float] = {}
        self._seen: dict[str, dict[str, Any]] = {}

    # -- the server ---------------------------------------------------------------------------------------------

    def server(self) -> Server:
        """See `Lxd.server`."""
        info = self._lxd.get("", "describe the server", self._there(), project=False)
        environment = info.get("environment")
        if not environment:
            raise LxdUnavailable(
                f"{self._lxd.product} at {self.endpoint} does not trust this bot yet: add its client certificate there."
            )
        return Server(
            name=environment["server_name"],
            version=environment["server_version"],
            product=called(environment["server"]).name,
            extensions=frozenset(info["api_extensions"]),
            clustered=environment.get("server_clustered", False),
            certificate=environment["certificate"],
            addresses=tuple(f"https://{address}" for address in environment["addresses"]),
        )

    def subnet(self) -> str:
        """See `Lxd.subnet`."""
        return self._bridge.subnet()

    def keeps_in(self) -> bool:
        """See `Lxd.keeps_in`."""
        return self._bridge.keeps_in()

    def members(self) -> list[Member]:
        """See `Lxd.members`."""
        if not self._clustered():
            return []
        found = self._lxd.get("cluster/members", "list the cluster's members", {"recursion": "1"}, project=False)
        members = (
            Member(entry["server_name"], entry["url"], entry["status"] == "Online", entry["message"]) for entry in found
        )
        return sorted(members, key=lambda member: member.name)

    def at(self, member: str) -> Self:
        """See `Lxd.at`."""
        # The connection and the locks of updates are common to both.
        there = copy.copy(self)
        there._member = member
        return there

    def _clustered(self) -> bool:
        """Whether the server is part of a cluster, as it said when the connection was made."""
        with self._lxd.words("describe the server"):
            return bool(self._lxd.connected().host_info["environment"].get("server_clustered", False))

    def _there(self) -> dict[str, str]:
        return {"target": self._member} if self._member else {}

    def pool(self) -> PoolSpace:
        """See `Lxd.pool`."""
        path = f"storage-pools/{self._pool}/resources"
        found = self._lxd.get(path, f"measure the pool `{self._pool}`", self._there(), project=False)
        return PoolSpace(used=found["space"]["used"], total=found["space"]["total"])

    def quotas(self, name: str) -> Quotas | None:
        """See `Lxd.quotas`."""
        return btrfs.read(self.execute(name, btrfs.ASK, timeout=int(SHORT)).stdout)

    def recount(self, name: str, filesystem: str) -> None:
        """See `Lxd.recount`."""
        doing = f"have the pool `{self._pool}` counted anew"
        if self.endpoint.startswith("https://"):
            raise LxdError(f"The bot cannot {doing}: its server is on another machine.")
        try:
            btrfs.recount(self.root_path(name), filesystem)
        except OSError as error:
            raise LxdError(f"The bot could not {doing}: {error.strerror or error}.") from error

    def root_path(self, name: str) -> str:
        """See `Lxd.root_path`."""
        found = self._lxd.get(f"{path_of(name)}/state", f"read the state of `{name}`")
        if found["pid"] <= 0:
            raise LxdError(f"{self._lxd.product} has no root of `{name}`: it does not run.")
        return f"/proc/{found['pid']}/root"

    def resources(self) -> Resources:
        """See `Lxd.resources`. Servers older than the extension `resources_load` tell no load."""
        began = time.monotonic()
        found = self._lxd.get("resources", "measure the host's memory", self._there(), project=False)
        memory, load = found["memory"], found.get("load") or {}
        return Resources(
            total=memory["total"],
            used=memory["used"],
            cores=found["cpu"]["total"],
            load=load.get("Average1Min"),
            seconds=time.monotonic() - began,
        )

    # -- reading instances --------------------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """See `Lxd.instances`."""
        found = self._lxd.get("instances", "list the instances", params={"recursion": "1"})
        return sorted((_instance(entry) for entry in self._without_gaps(found)), key=lambda instance: instance.name)

    def instance(self, name: str) -> Instance:
        """See `Lxd.instance`."""
        return _instance(self._lxd.get(path_of(name), f"read `{name}`"))

    def states(self) -> dict[str, InstanceState]:
        """See `Lxd.states`."""
        return {whole.instance.name: whole.state for whole in self.survey()}

    def state(self, name: str) -> InstanceState:
        """See `Lxd.state`."""
        return _state(self._lxd.get(f"{path_of(name)}/state", f"read the state of `{name}`"))

    def survey(self) -> list[Whole]:
        """See `Lxd.survey`. LXD tells no sizes of snapshots here; `snapshots` does."""
        # Of a big fleet it takes its time.
        answer = self._lxd.json("get", "instances", "survey the instances", params={"recursion": "2"}, timeout=SHORT)
        return sorted(map(_whole, self._without_gaps(answer["metadata"])), key=lambda whole: whole.instance.name)

    def _without_gaps(self, found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return a list in which those of a dead member are what they were when it was last seen.

        Of these a cluster tells only the names, and nobody changes them meanwhile. Raises LxdUnavailable where nobody
        here has seen them: they may be anything.
        """
        whole = []
        for entry in found:
            if entry["config"] is None:
                before = self._seen.get(entry["name"], {})
                if _location(before) != _location(entry):
                    where = _location(entry) or "the server"
                    raise LxdUnavailable(
                        f"{self._lxd.product} could not list the instances now: {where} does not answer."
                    )
                entry = {**entry, **before}
            whole.append(entry)
        self._seen |= {entry["name"]: {key: entry[key] for key in _LASTS if key in entry} for entry in whole}
        return whole

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
        # LXD keeps no profiles unless they are named, and a cluster wants the architecture too.
        found = self._lxd.get(path_of(*source.split("/", 1)), doing)
        # Beside its source: a clone shares blocks within one pool only, and each member of a cluster has its own.
        member = self._member
        if not member and self._clustered():
            member = self.instance(source.partition("/")[0]).location
        params = {"target": member} if member else {}

        def make(attached: Mapping[str, Mapping[str, str]]) -> None:
            body = {
                "name": name,
                "architecture": found["architecture"],
                "profiles": found["profiles"],
                "source": {"type": "copy", "source": source, "instance_only": True, "container_only": True},
                "config": dict(config),
                "devices": {key: dict(device) for key, device in attached.items()},
            }
            started = self._lxd.json("post", "instances", doing, json=body, params=params, timeout=SHORT)
            self._lxd.finish(started, doing, LONG)

        self._addressed(name, devices, member, make)

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
        """See `Lxd.receive`."""
        doing = f"copy `{instance}` to `{name}`"
        self._lxd.settle(name, doing)
        found = source._lxd.get(path_of(instance), doing)
        here, there = self._lxd.product, source._lxd.product
        if not takes(here, there):
            raise LxdError(f"{here} could not {doing}: it takes no containers from {there}.")
        member = self._member
        if refresh:
            # LXD would copy all where nothing is, and make a second one on another member.
            copy = self.instance(name)
            member = copy.location
            # The source's address is the source's.
            devices = {key: device for key, device in copy.devices.items() if key == NIC} | dict(devices)
        elif name in [instance.name for instance in self.instances()]:
            raise AlreadyExists(f"{self._lxd.product} could not {doing}: that name is already taken.")
        ends = source._end(_location(found)), self._end(member)

        def make(attached: Mapping[str, Mapping[str, str]]) -> None:
            body = {
                "name": name,
                "architecture": found["architecture"],
                "profiles": found["profiles"],
                "config": {key: value for key, value in found["config"].items() if not key.startswith("volatile.")}
                | dict(config),
                "devices": found["devices"] | {key: dict(device) for key, device in attached.items()},
            }
            transfer(*ends, instance, body, doing, member=member, refresh=refresh)
            if refresh:
                self.update(name, config, attached)

        self._addressed(name, devices, member, make)

    def _end(self, member: str) -> End:
        """This server as one end of a transfer; of a cluster, the member that is to send or receive."""
        server = self.server()
        addresses = [self.endpoint] if self.endpoint.startswith("https://") else [*server.addresses, ""]
        if member:
            addresses = [found.address for found in self.members() if found.name == member]
        return End(self._lxd, server.certificate, addresses[0])

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """See `Lxd.create`."""
        fingerprint = len(image) >= 12 and set(image) <= set("0123456789abcdef")
        doing = f"create `{name}` from the image `{image}`"

        def make(attached: Mapping[str, Mapping[str, str]]) -> None:
            body = {
                "name": name,
                "type": "container",
                "source": {"type": "image", "fingerprint" if fingerprint else "alias": image},
                "profiles": [self._profile],
                "config": dict(config),
                "devices": {key: dict(device) for key, device in attached.items()},
            }
            self._lxd.change("post", "instances", doing, body, params=self._there(), deadline=LONG)

        self._addressed(name, devices, self._member, make)

    def _addressed(
        self,
        name: str,
        devices: Mapping[str, Mapping[str, str]],
        location: str,
        make: Callable[[Mapping[str, Mapping[str, str]]], None],
    ) -> None:
        """Make an instance, or change one, with an address of its own on the bridge."""
        if NIC in devices:
            make(devices)
            return
        instances, refused = self.instances(), list[str]()
        while True:
            with self._bridge.address(name, instances, location, refused) as nic:
                try:
                    make({**devices, NIC: nic})
                    return
                except AddressTaken:
                    # It is somebody's in another project.
                    refused.append(nic["ipv4.address"])

    def pin(self, name: str) -> str:
        """See `Lxd.pin`."""
        instances = self.instances()
        found = next((one for one in instances if one.name == name), None) or self.instance(name)
        if address := kept(found.config, found.devices):
            return address
        mac = found.config.get(f"volatile.{NIC}.hwaddr", "")
        if found.running and (nic := self._bridge.leased(mac, instances)):
            with suppress(AddressTaken):
                self.update(name, {}, {NIC: nic})
                return nic["ipv4.address"]
        self._addressed(name, {}, found.location, lambda devices: self.update(name, {}, devices))
        return given(self.instance(name))

    def start(self, name: str) -> None:
        """See `Lxd.start`."""
        since = time.monotonic() - self._changed.pop(name, -math.inf)
        time.sleep(max(0.0, _WRITTEN - since))
        while True:
            try:
                body = {"action": "start", "timeout": -1}
                self._lxd.change("put", f"{path_of(name)}/state", f"start `{name}`", body)
                return
            except AddressTaken:
                # LXD looks for that only now.
                found = self.instance(name)
                refused = given(found)
                self.update(name, {}, {NIC: None})
                with self._bridge.address(name, self.instances(), found.location, [refused]) as nic:
                    self.update(name, {}, {NIC: nic})
            except LxdError as error:
                if "already running" in str(error).lower():
                    # So it says of a frozen one as well.
                    self.thaw(name)
                    return
                filtered = dict(self.instance(name).devices.get(NIC, {}))
                if not unfiltered(error) or filtered.pop("security.ipv6_filtering", "") != "true":
                    raise
                filtered.pop("ipv6.address", None)
                self.update(name, {}, {NIC: filtered})

    def thaw(self, name: str) -> None:
        """See `Lxd.thaw`."""
        if self.instance(name).status == "Frozen":
            self._state(name, "unfreeze")

    def _state(self, name: str, action: str) -> None:
        body = {"action": action, "timeout": FREEZING}
        self._lxd.change("put", f"{path_of(name)}/state", f"{action} `{name}`", body, deadline=FREEZING)

    @contextmanager
    def _still(self, name: str) -> Iterator[None]:
        """Let a running container stand still, where LXD walks through its files to take a snapshot: on btrfs.

        It looks for subvolumes, and a file that goes away just then ends it, with a part of the snapshot left in the
        pool that it knows nothing of. Of the other kinds of pool it does not walk, or stops the container itself.
        """
        if self._leftovers.driver() != "btrfs" or not self.instance(name).running:
            yield
            return
        try:
            try:
                self._state(name, "freeze")
            except LxdError as error:
                # Something in it may keep itself from being stopped.
                log.warning("%s does not stand still for a snapshot: %s", name, error)
            yield
        finally:
            self.thaw(name)

    def isolate(self, name: str) -> None:
        """See `Lxd.isolate`."""
        instance = self.instance(name)
        if not put_back(instance.config):
            facts, device = taken_off(instance)
            self.update(name, facts, {NIC: device})

    def rejoin(self, name: str) -> None:
        """See `Lxd.rejoin`."""
        if before := put_back(self.instance(name).config):
            facts, device = before
            self.update(name, facts, {NIC: device})

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """See `Lxd.stop`."""
        body = {"action": "stop", "timeout": timeout, "force": force}
        with _unless("already stopped"), _in_spite(lambda: self.instance(name).status == "Stopped"):
            self._lxd.change("put", f"{path_of(name)}/state", f"stop `{name}`", body, deadline=timeout + SHORT)

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """See `Lxd.restart`."""
        body = {"action": "restart", "timeout": timeout, "force": False}
        try:
            self._lxd.change("put", f"{path_of(name)}/state", f"restart `{name}`", body, deadline=timeout + SHORT)
        except AddressTaken:
            self.start(name)

    def rename(self, name: str, new_name: str) -> None:
        """See `Lxd.rename`."""
        with _in_spite(lambda: new_name in [instance.name for instance in self.instances()]):
            self._lxd.change("post", path_of(name), f"rename `{name}` to `{new_name}`", {"name": new_name})

    def delete(self, name: str) -> None:
        """See `Lxd.delete`."""
        self._lxd.settle(name, f"delete `{name}`")
        end = time.monotonic() + RELEASED
        while True:
            try:
                self._lxd.change("delete", path_of(name), f"delete `{name}`", deadline=LONG)
                return
            except Held as error:
                if not self._leftovers.remove_snapshots(name) and time.monotonic() > end:
                    if self.snapshots(name):
                        raise
                    raise self._leftovers.in_the_way(name) from error
            time.sleep(0.5)

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """See `Lxd.update`."""
        with self._updating(name):
            self._lay_over(name, config, devices or {})

    def snapshot(
        self,
        name: str,
        snapshot: str,
        *,
        config: Mapping[str, str] | None = None,
        within: AbstractContextManager[object] | None = None,
        still: bool = False,
    ) -> None:
        """See `Lxd.snapshot`.

        LXD keeps the instance's own configuration in a snapshot and takes none for it alone: the keys are laid on
        the instance while the snapshot is taken. `within` ends with the copy itself, a matter of milliseconds: after it
        LXD goes through all files of the instance, twice, in search of subvolumes. Incus does not, and `within` lasts
        as long as its operation.
        """
        doing = f"take the snapshot `{snapshot}` of `{name}`"
        body = {"name": snapshot, "stateful": False}
        still = still or self._leftovers.would_stay()
        with self._updating(name):
            before: Mapping[str, str] = self._lay_over(name, config, {}) if config else {}
            try:
                with ExitStack() as held:
                    held.enter_context(within or nullcontext())

                    def copied() -> bool:
                        there = self._is_copied(name, snapshot)
                        if there:
                            held.close()
                        return there

                    # What stands still does not hear that it may go on.
                    early = within and not still and self._leftovers.driver() in ("btrfs", "zfs")
                    until = copied if early else None
                    with self._still(name) if still else nullcontext():
                        self._lxd.change("post", f"{path_of(name)}/snapshots", doing, body, deadline=LONG, until=until)
            except Vanished:
                self._leftovers.remove_snapshots(name)
                raise
            finally:
                if config:
                    self._lay_over(name, {key: before.get(key) for key in config}, {})

    def _is_copied(self, name: str, snapshot: str) -> bool:
        """Whether the files of a snapshot that is being taken are there; LXD tells no size before (-1).

        Nor does it where no disk has a limit, as quotas tell the size: then nobody knows until it is through.
        """
        try:
            return bool(self._lxd.get(path_of(name, snapshot), f"look at the snapshot `{snapshot}`")["size"] >= 0)
        except NotFound:
            return False

    def snapshots(self, name: str) -> list[Snapshot]:
        """See `Lxd.snapshots`."""
        found = self._lxd.get(
            f"{path_of(name)}/snapshots", f"list the snapshots of `{name}`", params={"recursion": "1"}
        )
        # LXD's own order is that of creation, which the sort keeps for those of the same second.
        return sorted((_snapshot(entry) for entry in found), key=lambda snapshot: snapshot.created)

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `Lxd.delete_snapshot`."""
        doing = f"delete the snapshot `{snapshot}` of `{name}`"
        with _in_spite(lambda: snapshot not in [one.name for one in self.snapshots(name)]):
            self._lxd.change("delete", path_of(name, snapshot), doing, deadline=LONG)

    # -- inside instances ---------------------------------------------------------------------------------------

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
        doing = f"run `{Path(command[0]).name}` in `{name}`"
        body = {
            "command": command,
            "environment": dict(environment or {}),
            "user": user,
            "record-output": True,
            "wait-for-websocket": False,
            "interactive": False,
        }
        started = self._lxd.json("post", f"{path_of(name)}/exec", doing, json=body)
        self._leftovers.unread.add(started["metadata"]["id"])
        # Where the output stands is told at the end only; before it is one of these, by product and version.
        file = f"exec_{started['metadata']['id']}"
        logs = [f"{path_of(name)}/{folder}/{file}" for folder in ("logs", "logs/exec-output")]
        logs = [f"{log}.{stream}" for log in logs for stream in ("stdout", "stderr")]
        output: list[bytes] = []
        try:
            ended = self._lxd.operation(started, doing, timeout)
            found = ended["metadata"] or {}
            code = found.get("return")
            # A command that is not there fails the operation, yet it has an exit code like any other.
            if code is None or (ended["status"] != "Success" and code not in (126, 127)):
                raise self._lxd.refusal(ended["err"] or f"it ended as {ended['status']}", doing)
            logs = [found["output"][stream].partition("?")[0].removeprefix("/1.0/") for stream in ("1", "2")]
            for log in logs:
                output.append(self._read(self._lxd.request("get", log, doing, is_api=False, stream=True), doing))
        finally:
            for log in logs:
                # Nothing may stay on the host, and a failure to clean up must not hide the command's own end.
                with suppress(LxdError):
                    self._lxd.request("delete", log, doing)
            self._leftovers.unread.discard(started["metadata"]["id"])
        said, complained = (found.decode(errors="replace") for found in output)
        return ExecResult(code=code, stdout=said, stderr=complained or ended["err"])

    def sweep(self) -> None:
        """See `Lxd.sweep`."""
        self._leftovers.sweep([instance.name for instance in self.instances()])

    def talk(self, name: str, command: list[str], *, timeout: float = 120, limit: int) -> AbstractContextManager[Talk]:
        """See `Lxd.talk`."""
        return conversation(self._lxd, name, command, timeout=timeout, limit=limit)

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """See `Lxd.push`."""
        meta = {"type": "file", "write": "overwrite", "mode": f"{mode:04o}", "uid": str(uid), "gid": str(gid)}
        headers = {f"X-{kind}-{key}": value for kind in ("LXD", "Incus") for key, value in meta.items()}
        headers["Content-Type"] = "application/octet-stream"
        self._file("post", name, path, f"write `{path}` in `{name}`", data=content, headers=headers)

    def pad(self, name: str, path: str, size: int) -> None:
        """See `Lxd.pad`."""
        self.push(name, path, os.urandom(size))

    def pull(self, name: str, path: str) -> bytes:
        """See `Lxd.pull`."""
        doing = f"read `{path}` in `{name}`"
        answer = self._file("get", name, path, doing, is_api=False, stream=True)
        kind = answer.headers.get("X-LXD-type") or answer.headers.get("X-Incus-type")
        if kind != "file":
            answer.close()
            raise LxdError(f"{self._lxd.product} could not {doing}: it is no file.")
        return self._read(answer, doing)

    def _read(self, answer: Any, doing: str) -> bytes:
        """Read a file in pieces: no more than MOST bytes, and as a whole within SHORT seconds."""
        end = time.monotonic() + SHORT
        content = bytearray()
        with self._lxd.words(doing), answer:
            for piece in answer.iter_content(1 << 20):
                content += piece
                if len(content) > MOST:
                    raise LxdError(f"{self._lxd.product} could not {doing}: it has more than {MOST >> 20} MiB.")
                if time.monotonic() > end:
                    raise LxdUnavailable(f"{self._lxd.product} did not {doing} within {SHORT} seconds.")
        return bytes(content)

    def remove(self, name: str, path: str) -> None:
        """See `Lxd.remove`."""
        with suppress(_FileNotThere):
            self._file("delete", name, path, f"delete `{path}` in `{name}`")

    def _file(self, verb: str, name: str, path: str, doing: str, **arguments: Any) -> Any:
        """Make one request about a file; again, where LXD's helper for files ended just then, as it does when idle."""
        tries = 3
        while True:
            try:
                with self._absent_file(name, path):
                    answer = self._lxd.request(
                        verb, f"{path_of(name)}/files", doing, params={"path": path}, timeout=SHORT, **arguments
                    )
                    self._changed[name] = time.monotonic()
                    return answer
            except LxdUnavailable as error:
                tries -= 1
                if not tries or FILES_GONE not in str(error):
                    raise

    # -- images -------------------------------------------------------------------------------------------------

    def image(self, alias: str) -> Mapping[str, str] | None:
        """See `Lxd.image`."""
        doing = f"look up the image `{alias}`"
        try:
            target = self._lxd.get(f"images/aliases/{quote(alias, safe='')}", doing)["target"]
            found = self._lxd.get(f"images/{target}", doing)
        except NotFound:
            return None
        return {**found["properties"], "fingerprint": found["fingerprint"]}

    def import_image(self, path: str, alias: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.import_image`."""
        doing = f"import the image `{path}`"
        try:
            with Path(path).open("rb") as file:
                fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
                try:
                    self._lxd.get(f"images/{fingerprint}", doing)
                except NotFound:
                    file.seek(0)
                    self._upload(file, properties, doing)
        except FileNotFoundError as error:
            raise NotFound(f"There is no image file {path}.") from error
        self._point(alias, fingerprint)
        return fingerprint

    def export_image(self, source: str, alias: str, path: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.export_image`."""
        doing = f"publish `{source}` as the image `{alias}`"
        body = {
            "source": {"type": "snapshot" if "/" in source else "instance", "name": source},
            "properties": dict(properties),
            "compression_algorithm": "zstd",
        }
        published = self._lxd.change("post", "images", doing, body, deadline=LONG)
        fingerprint: str = published["metadata"]["fingerprint"]
        self._point(alias, fingerprint)
        part = Path(f"{path}.part")
        # The answer is read in pieces: an image has some hundred megabytes.
        answer = self._lxd.request(
            "get", f"images/{fingerprint}/export", doing, is_api=False, stream=True, timeout=LONG
        )
        with self._lxd.words(doing), answer, part.open("wb") as file:
            for piece in answer.iter_content(1 << 20):
                file.write(piece)
        part.replace(path)
        return fingerprint

    def _upload(self, file: BinaryIO, properties: Mapping[str, str], doing: str) -> None:
        headers = {f"X-{kind}-properties": urlencode(properties) for kind in ("LXD", "Incus")}
        started = self._lxd.json(
            "post",
            "images",
            doing,
            data=file,
            headers={**headers, "Content-Type": "application/octet-stream"},
            timeout=LONG,
        )
        self._lxd.finish(started, doing, LONG)

    def _point(self, alias: str, fingerprint: str) -> None:
        """Make an alias name this image, whatever it named before."""
        doing = f"name the image `{alias}`"
        try:
            self._lxd.request("post", "images/aliases", doing, json={"name": alias, "target": fingerprint})
        except AlreadyExists:
            path = f"images/aliases/{quote(alias, safe='')}"
            self._lxd.request("put", path, doing, json={"target": fingerprint, "description": ""})

    # -- the bot's own part of the server -----------------------------------------------------------------------

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
                # Rules of a bridge that is no more may be for another subnet.
                with suppress(NotFound):
                    self._lxd.request("delete", f"network-acls/{self._network}", "remove old rules", project=False)
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
        """Take away what `ensure_project` made, with every instance and image in it; all else stays."""
        with suppress(NotFound):
            with ThreadPoolExecutor(8) as threads:
                removing = [threads.submit(self._remove, instance.name) for instance in self.instances()]
            # All others are gone when one cannot be removed.
            for removed in removing:
                removed.result()
            doing = "list the images"
            for image in self._lxd.get("images", doing, params={"recursion": "1"}):
                self._lxd.change("delete", f"images/{image['fingerprint']}", "delete an image")
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
                self._lxd.request("delete", path, f"delete {path}", project=kind == "profiles", timeout=SHORT)

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
        """Make one object when it is not there. A cluster wants it named on each member first (`each` there)."""
        if not self._lacks(kind, body["name"], project=project):
            return
        doing = f"make {kind.removesuffix('s').replace('-', ' ')} `{body['name']}`"
        try:
            if members:
                for member in members:
                    pending = {**body, "config": dict(each or {})}
                    self._lxd.request("post", kind, doing, params={"target": member}, json=pending, project=False)
                body = {**body, "config": dict(config or {})}
            elif each is not None or config is not None:
                body = {**body, "config": {**(each or {}), **(config or {})}}
            self._lxd.request("post", kind, doing, json=body, project=project, timeout=SHORT)
        except AlreadyExists:
            # Another bot was quicker, or something else of this name stands in the way.
            if self._lacks(kind, body["name"], project=project):
                raise

    def _lacks(self, kind: str, name: str, *, project: bool = False) -> bool:
        try:
            found = self._lxd.get(f"{kind}/{name}", f"look up {kind}/{name}", project=project)
        except NotFound:
            return True
        if not found.get("managed", True):
            raise AlreadyExists(
                f"There is a network `{name}` that is not this {self._lxd.product}'s; choose another in `lxd.network`, "
                "and another `lxd.subnet`."
            )
        return False

    @contextmanager
    def _updating(self, name: str) -> Iterator[None]:
        with self._lock:
            lock = self._update_locks.setdefault(name, threading.Lock())
        with lock:
            yield

    def _lay_over(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None],
    ) -> Mapping[str, str]:
        """Lay keys over an instance, for the version that was read; return the configuration before."""
        doing = f"update `{name}`"
        end = time.monotonic() + SHORT
        while True:
            answer = self._lxd.request("get", path_of(name), doing)
            found = answer.json()["metadata"]
            if _is_laid(found, config, devices):
                # Nothing to write, which a full disk would refuse.
                return dict(found["config"])
            body: dict[str, Any] = {
                "config": {key: value or "" for key, value in config.items()},
                "devices": {key: dict(device) for key, device in devices.items() if device},
            }
            verb = "patch"
            if any(device is None for device in devices.values()):
                # A patch adds and changes devices, but cannot take one away: write the whole.
                verb = "put"
                kept = {key: device for key, device in found["devices"].items() if key not in devices}
                laid = {key: value for key, value in {**found["config"], **config}.items() if value}
                body = {
                    **{key: found[key] for key in ("architecture", "profiles", "ephemeral", "description")},
                    "config": laid,
                    "devices": {**kept, **body["devices"]},
                }
            try:
                changed = self._lxd.json(
                    verb, path_of(name), doing, json=body, headers={"If-Match": answer.headers["ETag"]}
                )
                if changed["type"] == "async":
                    self._lxd.finish(changed, doing, SHORT)
            except PoolFull:
                # A size that is too small holds too, and is to be told.
                if "root" in devices or not _is_laid(self._lxd.get(path_of(name), doing), config, devices):
                    raise
            except Stale:
                continue
            except Busy:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
                continue
            before: Mapping[str, str] = found["config"]
            return before

    # -- errors -------------------------------------------------------------------------------------------------

    @contextmanager
    def _absent_file(self, name: str, path: str) -> Iterator[None]:
        """Tell a missing file from a missing instance."""
        try:
            yield
        except NotFound as error:
            if "instance" in str(error.__cause__).lower():
                raise
            raise _FileNotThere(f"There is no `{path}` in `{name}`.") from error


class _FileNotThere(NotFound):
    """The instance is there, the file in it is not."""


@contextmanager
def _in_spite(done: Callable[[], bool]) -> Iterator[None]:
    """Pass over a full disk where the change is made all the same.

    Once it has made one LXD writes down, on the instance's own disk, how the instance is now; and what it has undone
    of that is no matter to anybody.
    """
    try:
        yield
    except PoolFull:
        if not done():
            raise


def _is_laid(
    found: Mapping[str, Any], config: Mapping[str, str | None], devices: Mapping[str, Mapping[str, str] | None]
) -> bool:
    """Whether an instance already has these keys and devices."""
    same = all(found["config"].get(key, "") == (value or "") for key, value in config.items())
    return same and all(found["devices"].get(key) == device for key, device in devices.items())


@contextmanager
def _unless(text: str) -> Iterator[None]:
    """Pass over a refusal that says that the wish is already fulfilled."""
    try:
        yield
    except LxdError as error:
        if text not in str(error).lower():
            raise


def _epoch(text: str | None) -> int:
    """Epoch seconds of LXD's time, 0 for its zero (year 1) or none."""
    return max(0, int(datetime.fromisoformat(text).timestamp())) if text else 0


def _instance(entry: Mapping[str, Any]) -> Instance:
    return Instance(
        name=entry["name"],
        status=entry["status"],
        config=entry["config"],
        devices=entry["devices"],
        profiles=tuple(entry["profiles"] or ()),
        location=_location(entry),
        created=_epoch(entry["created_at"]),
        started=_epoch(entry.get("last_used_at")),
    )


def _location(entry: Mapping[str, Any]) -> str:
    return "" if entry.get("location") in (None, "none") else str(entry["location"])


def _whole(entry: Mapping[str, Any]) -> Whole:
    snapshots = sorted(map(_snapshot, entry["snapshots"] or ()), key=lambda snapshot: snapshot.created)
    return Whole(_instance(entry), _state(entry["state"] or {"status": entry["status"]}), tuple(snapshots))


def _state(entry: Mapping[str, Any]) -> InstanceState:
    eth0 = (entry.get("network") or {}).get("eth0") or {}
    addresses = [
        found["address"]
        for found in eth0.get("addresses") or ()
        if found["family"] == "inet" and found["scope"] == "global"
    ]
    return InstanceState(
        status=entry["status"],
        address=addresses[0] if addresses else "",
        addresses=tuple(addresses),
        disk=((entry.get("disk") or {}).get("root") or {}).get("usage", 0),
        cpu=(entry.get("cpu") or {}).get("usage", 0),
        processes=max(0, entry.get("processes", 0)),
        memory=max(0, (entry.get("memory") or {}).get("usage", 0)),
    )


def _snapshot(entry: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        name=entry["name"].rsplit("/", 1)[-1],
        created=_epoch(entry["created_at"]),
        expires=_epoch(entry.get("expires_at")),
        config=entry["config"],
        size=max(0, entry.get("size", 0)),
    )
