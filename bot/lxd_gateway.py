"""The `Lxd` protocol over a real server: the only importer of pylxd.

pylxd carries the connection, the addresses and the first reading of errors; the requests are made through its raw
`api`, because its models ask once more per instance, save without an ETag, wait without a deadline, force every stop
and lose output of commands under load.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import requests
import requests.adapters
import urllib3
import urllib3.connection
from pylxd import Client
from pylxd.client import LXDSSLAdapter
from pylxd.exceptions import ClientConnectionFailed, LXDAPIException

from bot.lxd import (
    AlreadyExists,
    ExecResult,
    Instance,
    InstanceState,
    LxdError,
    LxdUnavailable,
    NotFound,
    PoolFull,
    PoolSpace,
    Server,
    Snapshot,
    edge_address,
)

_LONG = 1800
"""Seconds that work on whole file systems (copy, image, publish) may take."""
_SHORT = 120
"""Seconds that everything else may take."""
_POLL = 10
"""Seconds of one wait request: LXD answers `Running` after them, and the loop asks again."""
_OCCUPIED = ("is busy running", "matching non-reusable operation")
_FULL = ("no space left", "quota exceeded", "enospc", "not enough space", "out of space")
_TAKEN = ("already exists", '" already in use')
_ABSENT = ("not found", "no such object")
_AWAY = ("database is locked", "failed to begin transaction", "no available dqlite leader", "cluster member is offline")


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
        timeout: float = 30.0,
    ) -> None:
        if len(network) > 15:
            raise LxdError(f"The bridge name `{network}` is longer than the 15 characters that Linux allows.")
        self.endpoint = endpoint
        self._project = project
        self._pool = pool
        self._network = network
        self._profile = profile
        self._certificate = certificate
        self._server_certificate = server_certificate
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None
        self._update_locks: dict[str, threading.Lock] = {}

    # -- the server ---------------------------------------------------------------------------------------------

    def server(self) -> Server:
        """See `Lxd.server`."""
        info = self._get("", "describe the server", project=False)
        environment = info.get("environment")
        if not environment:
            raise LxdUnavailable(
                f"LXD at {self.endpoint} does not trust this bot yet: add its client certificate there."
            )
        return Server(
            name=environment["server_name"],
            version=environment["server_version"],
            extensions=frozenset(info["api_extensions"]),
            clustered=environment.get("server_clustered", False),
        )

    def pool(self) -> PoolSpace:
        """See `Lxd.pool`."""
        found = self._get(f"storage-pools/{self._pool}/resources", f"measure the pool `{self._pool}`", project=False)
        return PoolSpace(used=found["space"]["used"], total=found["space"]["total"])

    # -- reading instances --------------------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """See `Lxd.instances`."""
        found = self._get("instances", "list the instances", params={"recursion": "1"})
        return sorted((_instance(entry) for entry in found), key=lambda instance: instance.name)

    def instance(self, name: str) -> Instance:
        """See `Lxd.instance`."""
        return _instance(self._get(_at(name), f"read `{name}`"))

    def states(self) -> dict[str, InstanceState]:
        """See `Lxd.states`."""
        found = self._get("instances", "read the state of the instances", params={"recursion": "2"})
        return {entry["name"]: _state(entry["state"] or {"status": entry["status"]}) for entry in found}

    def state(self, name: str) -> InstanceState:
        """See `Lxd.state`."""
        return _state(self._get(f"{_at(name)}/state", f"read the state of `{name}`"))

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
        found = self._get(_at(*source.split("/", 1)), doing)
        body = {
            "name": name,
            "architecture": found["architecture"],
            "profiles": found["profiles"],
            "source": {"type": "copy", "source": source, "instance_only": True, "container_only": True},
            "config": dict(config),
            "devices": {key: dict(device) for key, device in devices.items()},
        }
        # Beside its source: a clone shares blocks within one pool only, and each member of a cluster has its own.
        location = self._location(source.split("/", 1)[0], doing)
        started = self._json(
            "post", "instances", doing, json=body, params={"target": location} if location else {}, timeout=_SHORT
        )
        self._finish(started, doing, _LONG)

    def _location(self, name: str, doing: str) -> str:
        """The cluster member that an instance stands on, "" where there is no cluster (which costs no request)."""
        with self._words(doing):
            clustered = self._connected().host_info["environment"].get("server_clustered", False)
        return str(self._get(_at(name), doing)["location"]) if clustered else ""

    def create(
        self, name: str, image: str, *, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]
    ) -> None:
        """See `Lxd.create`."""
        fingerprint = len(image) >= 12 and set(image) <= set("0123456789abcdef")
        body = {
            "name": name,
            "type": "container",
            "source": {"type": "image", "fingerprint" if fingerprint else "alias": image},
            "profiles": [self._profile],
            "config": dict(config),
            "devices": {key: dict(device) for key, device in devices.items()},
        }
        self._change("post", "instances", f"create `{name}` from the image `{image}`", body, deadline=_LONG)

    def start(self, name: str) -> None:
        """See `Lxd.start`."""
        with _unless("already running"):
            self._change("put", f"{_at(name)}/state", f"start `{name}`", {"action": "start", "timeout": -1})

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """See `Lxd.stop`."""
        body = {"action": "stop", "timeout": timeout, "force": force}
        with _unless("already stopped"):
            self._change("put", f"{_at(name)}/state", f"stop `{name}`", body, deadline=timeout + _SHORT)

    def restart(self, name: str, *, timeout: int = 60) -> None:
        """See `Lxd.restart`."""
        body = {"action": "restart", "timeout": timeout, "force": False}
        self._change("put", f"{_at(name)}/state", f"restart `{name}`", body, deadline=timeout + _SHORT)

    def rename(self, name: str, new_name: str) -> None:
        """See `Lxd.rename`."""
        self._change("post", _at(name), f"rename `{name}` to `{new_name}`", {"name": new_name})

    def delete(self, name: str) -> None:
        """See `Lxd.delete`."""
        self._change("delete", _at(name), f"delete `{name}`", deadline=_LONG)

    def update(
        self,
        name: str,
        config: Mapping[str, str | None],
        devices: Mapping[str, Mapping[str, str] | None] | None = None,
    ) -> None:
        """See `Lxd.update`."""
        with self._updating(name):
            self._lay_over(name, config, devices or {})

    def snapshot(self, name: str, snapshot: str, *, config: Mapping[str, str] | None = None) -> None:
        """See `Lxd.snapshot`.

        LXD keeps the instance's own configuration in a snapshot and takes none for it alone: the keys are laid on
        the instance while the snapshot is taken.
        """
        doing = f"take the snapshot `{snapshot}` of `{name}`"
        body = {"name": snapshot, "stateful": False}
        with self._updating(name):
            before: Mapping[str, str] = self._lay_over(name, config, {}) if config else {}
            try:
                self._change("post", f"{_at(name)}/snapshots", doing, body, deadline=_LONG)
            finally:
                if config:
                    self._lay_over(name, {key: before.get(key) for key in config}, {})

    def snapshots(self, name: str) -> list[Snapshot]:
        """See `Lxd.snapshots`."""
        found = self._get(f"{_at(name)}/snapshots", f"list the snapshots of `{name}`", params={"recursion": "1"})
        # LXD's own order is that of creation, which the sort keeps for those of the same second.
        return sorted((_snapshot(entry) for entry in found), key=lambda snapshot: snapshot.created)

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `Lxd.delete_snapshot`."""
        self._change("delete", _at(name, snapshot), f"delete the snapshot `{snapshot}` of `{name}`", deadline=_LONG)

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
        started = self._json("post", f"{_at(name)}/exec", doing, json=body)
        logs = [f"{_at(name)}/logs/exec_{started['metadata']['id']}.{stream}" for stream in ("stdout", "stderr")]
        output: list[str] = []
        try:
            ended = self._operation(started, doing, timeout)
            code = (ended["metadata"] or {}).get("return")
            # A command that is not there fails the operation, yet it has an exit code like any other.
            if code is None or (ended["status"] != "Success" and code not in (126, 127)):
                raise self._refusal(ended["err"] or f"it ended as {ended['status']}", doing)
            for log in logs:
                output.append(self._request("get", log, doing, is_api=False).content.decode(errors="replace"))
        finally:
            for log in logs:
                # Nothing may stay on the host, and a failure to clean up must not hide the command's own end.
                with suppress(LxdError):
                    self._request("delete", log, doing)
        return ExecResult(code=code, stdout=output[0], stderr=output[1] or ended["err"])

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """See `Lxd.push`."""
        meta = {"type": "file", "write": "overwrite", "mode": f"{mode:04o}", "uid": str(uid), "gid": str(gid)}
        headers = {f"X-{kind}-{key}": value for kind in ("LXD", "Incus") for key, value in meta.items()}
        with self._absent_file(name, path):
            self._request(
                "post",
                f"{_at(name)}/files",
                f"write `{path}` in `{name}`",
                params={"path": path},
                data=content,
                headers={**headers, "Content-Type": "application/octet-stream"},
                timeout=_SHORT,
            )

    def pull(self, name: str, path: str) -> bytes:
        """See `Lxd.pull`."""
        doing = f"read `{path}` in `{name}`"
        with self._absent_file(name, path):
            answer = self._request(
                "get", f"{_at(name)}/files", doing, params={"path": path}, is_api=False, timeout=_SHORT
            )
        if "directory" in (answer.headers.get("X-LXD-type"), answer.headers.get("X-Incus-type")):
            raise LxdError(f"LXD could not {doing}: it is a folder.")
        content: bytes = answer.content
        return content

    def remove(self, name: str, path: str) -> None:
        """See `Lxd.remove`."""
        try:
            with self._absent_file(name, path):
                self._request("delete", f"{_at(name)}/files", f"delete `{path}` in `{name}`", params={"path": path})
        except _FileNotThere:
            return

    # -- images -------------------------------------------------------------------------------------------------

    def image(self, alias: str) -> Mapping[str, str] | None:
        """See `Lxd.image`."""
        doing = f"look up the image `{alias}`"
        try:
            target = self._get(f"images/aliases/{quote(alias, safe='')}", doing)["target"]
            found = self._get(f"images/{target}", doing)
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
                    self._get(f"images/{fingerprint}", doing)
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
        published = self._change("post", "images", doing, body, deadline=_LONG)
        fingerprint: str = published["metadata"]["fingerprint"]
        self._point(alias, fingerprint)
        part = Path(f"{path}.part")
        # The answer is read in pieces: an image has some hundred megabytes.
        answer = self._request("get", f"images/{fingerprint}/export", doing, is_api=False, stream=True, timeout=_LONG)
        with self._words(doing), answer, part.open("wb") as file:
            for piece in answer.iter_content(1 << 20):
                file.write(piece)
        part.replace(path)
        return fingerprint

    def _upload(self, file: BinaryIO, properties: Mapping[str, str], doing: str) -> None:
        headers = {f"X-{kind}-properties": urlencode(properties) for kind in ("LXD", "Incus")}
        started = self._json(
            "post",
            "images",
            doing,
            data=file,
            headers={**headers, "Content-Type": "application/octet-stream"},
            timeout=_LONG,
        )
        self._finish(started, doing, _LONG)

    def _point(self, alias: str, fingerprint: str) -> None:
        """Make an alias name this image, whatever it named before."""
        doing = f"name the image `{alias}`"
        try:
            self._request("post", "images/aliases", doing, json={"name": alias, "target": fingerprint})
        except AlreadyExists:
            path = f"images/aliases/{quote(alias, safe='')}"
            self._request("put", path, doing, json={"target": fingerprint, "description": ""})

    # -- the bot's own part of the server -----------------------------------------------------------------------

    def ensure_project(self, *, pool_driver: str, pool_size: str, subnet: str) -> None:
        """See `Lxd.ensure_project`."""
        server = self.server()
        members = [""]
        if server.clustered:
            found = self._get("cluster/members", "list the cluster's members", {"recursion": "1"}, project=False)
            members = [member["server_name"] for member in found]
        size = {} if pool_driver == "dir" else {"size": pool_size}
        self._ensure("storage-pools", {"name": self._pool, "driver": pool_driver}, members, each=size)
        rules = _network_config(subnet)
        if "network_bridge_acl" in server.extensions:
            if self._lacks("networks", self._network):
                # Rules of a bridge that is no more may be for another subnet.
                with suppress(NotFound):
                    self._request("delete", f"network-acls/{self._network}", "remove old rules", project=False)
            self._ensure("network-acls", {"name": self._network, "egress": [_no_way_round(subnet)]})
            rules |= {
                "security.acls": self._network,
                "security.acls.default.egress.action": "allow",
                "security.acls.default.ingress.action": "allow",
            }
        self._ensure("networks", {"name": self._network, "type": "bridge"}, members, config=rules)
        features = {
            "features.images": "true",
            "features.profiles": "true",
            "features.storage.volumes": "true",
            "features.networks": "false",
        }
        self._ensure("projects", {"name": self._project, "config": features})
        self._ensure("profiles", {"name": self._profile, "devices": self._devices()}, project=True)

    def remove_project(self) -> None:
        """Take away what `ensure_project` made, with every instance and image in it; all else stays."""
        with suppress(NotFound):
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(self._remove, [instance.name for instance in self.instances()]))
            doing = "list the images"
            for image in self._get("images", doing, params={"recursion": "1"}):
                self._change("delete", f"images/{image['fingerprint']}", "delete an image")
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
                self._request("delete", path, f"delete {path}", project=kind == "profiles", timeout=_SHORT)

    def _remove(self, name: str) -> None:
        self.stop(name, force=True)
        self.update(name, {"security.protection.delete": None})
        self.delete(name)

    def _devices(self) -> dict[str, dict[str, str]]:
        return {
            "root": {"type": "disk", "path": "/", "pool": self._pool},
            "eth0": {
                "type": "nic",
                "name": "eth0",
                "network": self._network,
                # Isolation keeps the ports apart; the filters keep a tenant from borrowing the edge's address.
                "security.port_isolation": "true",
                "security.mac_filtering": "true",
                "security.ipv4_filtering": "true",
            },
        }

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
            if members and members != [""]:
                for member in members:
                    pending = {**body, "config": dict(each or {})}
                    self._request("post", kind, doing, params={"target": member}, json=pending, project=False)
                body = {**body, "config": dict(config or {})}
            elif each is not None or config is not None:
                body = {**body, "config": {**(each or {}), **(config or {})}}
            self._request("post", kind, doing, json=body, project=project, timeout=_SHORT)
        except AlreadyExists:
            # Another bot was quicker, or something else of this name stands in the way.
            if self._lacks(kind, body["name"], project=project):
                raise

    def _lacks(self, kind: str, name: str, *, project: bool = False) -> bool:
        try:
            found = self._get(f"{kind}/{name}", f"look up {kind}/{name}", project=project)
        except NotFound:
            return True
        if not found.get("managed", True):
            raise AlreadyExists(
                f"This machine has a network `{name}` that is not LXD's; choose another in `lxd.network`."
            )
        return False

    # -- requests -----------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        """The pylxd client, made at the first use so that a bot can start while LXD is away."""
        with self._lock:
            if self._client is None:
                endpoint = self.endpoint
                session = requests.Session()
                # Otherwise REQUESTS_CA_BUNDLE and proxies from the environment win over the pinned certificate.
                session.trust_env = False
                if endpoint.startswith("/"):
                    endpoint = "http+unix://lxd"
                    session.mount(endpoint, _UnixAdapter(self.endpoint))
                else:
                    session.cert = self._certificate
                    session.verify = self._server_certificate or True
                    if self._server_certificate:
                        session.mount("https://", LXDSSLAdapter(pool_maxsize=32))
                self._client = Client(endpoint, session=session, timeout=self._timeout)
            return self._client

    def _request(self, verb: str, path: str, doing: str, *, project: bool = True, **arguments: Any) -> Any:
        """Make one request, `arguments` as for requests. Returns the response, or raises a LxdError kind."""
        if project:
            arguments["params"] = {**arguments.get("params", {}), "project": self._project}
        with self._words(doing):
            api = self._connected().api
            return getattr(api[path] if path else api, verb)(**arguments)

    def _json(self, verb: str, path: str, doing: str, **arguments: Any) -> Any:
        return self._request(verb, path, doing, **arguments).json()

    def _get(self, path: str, doing: str, params: Mapping[str, str] | None = None, *, project: bool = True) -> Any:
        return self._json("get", path, doing, params=dict(params or {}), project=project)["metadata"]

    def _change(self, verb: str, path: str, doing: str, body: Any = None, *, deadline: float = _SHORT) -> Any:
        """Make a request that LXD answers with a background operation, and see it to its end.

        Where another operation has the instance (as after a crash of ours) it waits for that one's end first.
        """
        end = time.monotonic() + deadline
        while True:
            try:
                return self._finish(self._json(verb, path, doing, json=body), doing, deadline)
            except _Busy:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _finish(self, started: Any, doing: str, deadline: float) -> Any:
        ended = self._operation(started, doing, deadline)
        if ended["status"] != "Success":
            raise self._refusal(ended["err"] or f"it ended as {ended['status']}", doing)
        return ended

    def _operation(self, started: Any, doing: str, deadline: float) -> Any:
        """Wait for an operation, at once (LXD forgets it 5 s after its end) and in pieces with a deadline of ours."""
        path = f"operations/{started['metadata']['id']}/wait"
        end = time.monotonic() + deadline
        while True:
            piece = max(1, min(_POLL, math.ceil(end - time.monotonic())))
            answer = self._json(
                "get", path, doing, params={"timeout": piece}, timeout=piece + self._timeout, project=False
            )
            if answer["metadata"]["status"] not in ("Pending", "Running", "Cancelling"):
                return answer["metadata"]
            if time.monotonic() >= end:
                raise LxdUnavailable(f"LXD did not {doing} within {round(deadline)} seconds.")

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
        end = time.monotonic() + _SHORT
        while True:
            answer = self._request("get", _at(name), doing)
            found = answer.json()["metadata"]
            same = all(found["config"].get(key, "") == (value or "") for key, value in config.items())
            if same and all(found["devices"].get(key) == device for key, device in devices.items()):
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
                changed = self._json(verb, _at(name), doing, json=body, headers={"If-Match": answer.headers["ETag"]})
                if changed["type"] == "async":
                    self._finish(changed, doing, _SHORT)
            except _Stale:
                continue
            except _Busy:
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

    @contextmanager
    def _words(self, doing: str) -> Iterator[None]:
        """Turn whatever pylxd and what it stands on raise into LxdError kinds with one sentence."""
        try:
            yield
        except LXDAPIException as error:
            raise self._refusal(_reason(error), doing, error.response.status_code) from error
        except (ClientConnectionFailed, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise LxdUnavailable(_unreachable(self.endpoint, doing, error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise LxdUnavailable(f"LXD at {self.endpoint} gave an answer that makes no sense: not LXD?") from error

    def _refusal(self, reason: str, doing: str, status: int = 400) -> LxdError:
        """Tell the kind of a refusal by its text: LXD answers most of them with 400 or 500."""
        text = " ".join(reason.split())[:300].rstrip(". ")
        low = text.lower()
        if status == 412:
            return _Stale(f"LXD could not {doing}: it was changed at the same time.")
        if any(word in low for word in _OCCUPIED):
            return _Busy(f"LXD could not {doing}: {text}.")
        if any(word in low for word in _FULL):
            return PoolFull(f"LXD could not {doing}: the storage pool `{self._pool}` (or the disk's limit) is full.")
        if status in (502, 503, 504) or any(word in low for word in _AWAY):
            return LxdUnavailable(f"LXD could not {doing} now: {text}.")
        if any(word in low for word in _TAKEN):
            return AlreadyExists(f"LXD could not {doing}: that name is already taken.")
        if status == 404 or any(word in low for word in _ABSENT):
            return NotFound(f"LXD could not {doing}: {text[:1].lower()}{text[1:]}.")
        if status == 403:
            return LxdUnavailable(f"LXD at {self.endpoint} does not allow the bot to {doing}: check its certificate.")
        return LxdError(f"LXD could not {doing}: {text}.")


class _FileNotThere(NotFound):
    """The instance is there, the file in it is not."""


class _Busy(LxdError):
    """Another operation has the instance, for a moment."""


class _Stale(LxdError):
    """The instance changed between reading and writing."""


@contextmanager
def _unless(text: str) -> Iterator[None]:
    """Pass over a refusal that says that the wish is already fulfilled."""
    try:
        yield
    except LxdError as error:
        if text not in str(error).lower():
            raise


def _reason(error: LXDAPIException) -> str:
    try:
        return str(error)
    except (ValueError, AttributeError):
        return f"HTTP {error.response.status_code}"


def _unreachable(endpoint: str, doing: str, error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return f"LXD at {endpoint} did not answer in time when asked to {doing}."
    if isinstance(error, requests.exceptions.SSLError) or "fingerprint" in str(error).lower():
        return f"LXD at {endpoint} shows another certificate than the one the bot was given for it."
    return f"LXD at {endpoint} cannot be reached; is it running?"


def _at(name: str, snapshot: str = "") -> str:
    path = f"instances/{quote(name, safe='')}"
    return f"{path}/snapshots/{quote(snapshot, safe='')}" if snapshot else path


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
        location="" if entry.get("location") in (None, "none") else entry["location"],
        created=_epoch(entry["created_at"]),
    )


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
        memory=(entry.get("memory") or {}).get("usage", 0),
        disk=((entry.get("disk") or {}).get("root") or {}).get("usage", 0),
        cpu=(entry.get("cpu") or {}).get("usage", 0),
        processes=max(0, entry.get("processes", 0)),
    )


def _snapshot(entry: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        name=entry["name"].rsplit("/", 1)[-1],
        created=_epoch(entry["created_at"]),
        expires=_epoch(entry.get("expires_at")),
        config=entry["config"],
    )


def _network_config(subnet: str) -> dict[str, str]:
    first, last = _tenant_range(subnet)
    return {
        "ipv4.address": subnet,
        "ipv4.nat": "true",
        "ipv4.dhcp.ranges": f"{first}-{last}",
        "ipv6.address": "none",
    }


def _tenant_range(subnet: str) -> tuple[str, str]:
    """The first and last address that tenants get; those below are kept for the bridge and the edge."""
    network = ipaddress.ip_interface(subnet).network
    edge_address(subnet)
    return str(network[16]), str(network[-2])


def _no_way_round(subnet: str) -> dict[str, str]:
    """The rule against the way round isolated ports: a tenant may not reach another by way of the host."""
    tenants = "-".join(_tenant_range(subnet))
    return {"action": "reject", "source": tenants, "destination": tenants, "state": "enabled"}


class _UnixConnection(urllib3.connection.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixPool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=32)
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path)


class _UnixAdapter(requests.adapters.HTTPAdapter):
    """One pool of connections to a unix socket. pylxd's own keeps 25, one for each address asked, and closes the
    eldest while another thread uses it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _UnixPool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> _UnixPool:
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return request.path_url

    def close(self) -> None:
        self._pool.close()
