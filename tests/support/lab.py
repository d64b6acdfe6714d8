"""A lab on one machine: a cluster of three members and two standalone servers, each in its own namespaces.

All are LXD; tests that need Incus add a server of it.

    python -m tests.support.lab up | down          (`make lab`, `make lab-down`)

Every daemon sees its own machine: a network namespace, connected to the others by a bridge, and a mount namespace. So
it can be killed, and its network cut, as if it were elsewhere. All state is under `ROOT`; all processes have `_MARK` in
their environment, so that those left by a killed run are found, and no others.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from bot.lxd.gateway import LxdGateway
from bot.lxd.local import server as local_lxd
from bot.lxd.local import shared as local_shared
from bot.lxd.products import INCUS, LXD, Product
from bot.lxd.protocol import LxdUnavailable
from tests.support import incus_packages
from tests.support.certificates import self_signed
from tests.support.real_lxd import TINY, without_lxd

ROOT = Path("/tmp/mautic-ops-lab")
BRIDGE = "mopslab"
MEMBERS = ("node1", "node2", "node3")
SINGLE = ("solo1", "solo2")
ADDRESS = {name: f"10.88.0.{101 + number}" for number, name in enumerate(MEMBERS + SINGLE)}
INCUS_NODE = ("incus1", "10.88.0.106")
SUBNET = "10.70.0.1/24"
"""The subnet of the tenants' bridge, inside each namespace."""
_BY_HAND = ROOT / "by-hand"
_MARK = f"MAUTIC_OPS_LAB={ROOT}"
_SECONDS = 60
_ALONE = """
set -e
# A sysfs that shows this network; the control groups are carried over.
mount --move /sys /mnt
mount -t sysfs sysfs /sys
mount --move /mnt/fs/cgroup /sys/fs/cgroup
umount -l /mnt
ip link set lo up
echo ready
exec sleep infinity
"""


class Node:
    """One machine of the lab: its namespaces, its daemon, and its network cable."""

    def __init__(self, name: str, address: str = "", product: Product = LXD) -> None:
        self.name = name
        self.address = address or ADDRESS[name]
        self.product = product
        self.url = f"https://{self.address}:8443"
        self.folder = ROOT / name
        self.socket = str(self.folder / product.key / "unix.socket")
        self._cable = f"{BRIDGE}{self.address[-1]}"
        self._holder: subprocess.Popen[str] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Make the namespaces, plug in the cable, and start the daemon."""
        (self.folder / self.product.key).mkdir(parents=True, mode=0o711)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-c", _ALONE],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout
        with self._holder.stdout as said:
            if (line := said.readline().strip()) != "ready":
                raise LxdUnavailable(f"The lab cannot make the namespaces of {self.name} on this machine: {line}")
        holder = str(self._holder.pid)
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", holder)
        _run("ip", "link", "set", self._cable, "master", BRIDGE, "up")
        inside = ["nsenter", "--net", "--target", holder, "ip"]
        _run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "route", "add", "default", "via", "10.88.0.1")
        self.start()

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        assert self._holder
        inside = ["nsenter", "--net", "--mount", "--target", str(self._holder.pid)]
        with (self.folder / f"{self.product.key}.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*inside, self.product.daemon, "--group", "root"],
                env={**_environment(), self.product.folder: str(self.folder / self.product.key)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        waitready = {LXD: ("lxd",), INCUS: ("incus", "admin")}[self.product]
        self.lxd(*waitready, "waitready", f"--timeout={_SECONDS}")

    def kill(self) -> None:
        """Kill the daemon with SIGKILL; its containers keep running."""
        assert self._daemon
        self._daemon.kill()
        self._daemon.wait()

    def cut(self) -> None:
        """Unplug the cable."""
        _run("ip", "link", "set", self._cable, "down")

    def restore(self) -> None:
        """Plug the cable in again, and wait until it works: neighbours that were away count as gone for a moment."""
        _run("ip", "link", "set", self._cable, "up")
        assert self._holder
        inside = ["nsenter", "--net", "--target", str(self._holder.pid)]
        others = [f"https://{address}:8443/" for name, address in ADDRESS.items() if name != self.name]
        command = [*inside, "curl", "--silent", "--insecure", "--fail-early", "--max-time", "2", *others]
        end = time.monotonic() + _SECONDS
        while subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > end:
                raise LxdUnavailable(f"The cable of {self.name} carries nothing.")
            time.sleep(0.2)

    @contextmanager
    def slow(self, megabits: int) -> Iterator[None]:
        """Limit the incoming traffic of the cable to so many megabits per second."""
        _run(*f"tc qdisc add dev {self._cable} root tbf rate {megabits}mbit burst 256k latency 100ms".split())
        try:
            yield
        finally:
            _run(*f"tc qdisc del dev {self._cable} root".split())

    def listen(self, on: bool) -> None:
        """Have the server listen on the network, or at its socket only."""
        self.lxd("lxc", "config", "set", "core.https_address", f"{self.address}:8443" if on else "")

    def fetch(self, url: str, domain: str) -> bytes:
        """Request a page of a domain from within the machine; return its body, empty if there is none."""
        assert self._holder
        inside = ["nsenter", "--net", "--target", str(self._holder.pid)]
        command = [*inside, "curl", "--silent", "--max-time", "10", "--header", f"Host: {domain}", url]
        return subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout

    def stored(self, instance: str, snapshot: str = "") -> Path:
        """Return the folder of an instance, or of its snapshot, in the pool as the daemon sees it."""
        assert self._daemon
        pool = self.folder.relative_to("/") / "lxd" / "storage-pools" / "mautic-ops"
        kind = "containers-snapshots" if snapshot else "containers"
        return Path(f"/proc/{self._daemon.pid}/root", pool, kind, f"mautic-ops_{instance}", snapshot)

    def settle(self) -> None:
        """Wait until deleted data is gone from the pool; until then btrfs may delay every sync to disk."""
        assert self._daemon
        pool = "/" / self.stored("").parent.parent.relative_to(f"/proc/{self._daemon.pid}/root")
        for command in ("filesystem", "subvolume"):
            _run("nsenter", "--mount", "--target", str(self._daemon.pid), "btrfs", command, "sync", str(pool))

    @contextmanager
    def full(self, beside: str) -> Iterator[None]:
        """Fill the pool that an instance is in to its last block, and free the space again afterwards."""
        filler = self.stored(beside).parent / "filler"
        with filler.open("wb") as file:
            for size in (1 << 28, 1 << 24, 1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), file.tell(), size)
                        file.seek(size, os.SEEK_CUR)
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def sending(self, instance: str, snapshot: str) -> Iterator[None]:
        """Send a snapshot to a receiver that never reads it, as LXD does when a cable is cut."""
        assert self._daemon
        inside = ["nsenter", "--mount", "--target", str(self._daemon.pid)]
        path = "/" / self.stored(instance, snapshot).relative_to(f"/proc/{self._daemon.pid}/root")
        with subprocess.Popen([*inside, "btrfs", "send", "--quiet", path], stdout=subprocess.PIPE) as sender:
            assert sender.stdout
            # The pipe is far too small for the data after the first byte, so the sender blocks.
            sender.stdout.read(1)
            yield

    def received(self) -> int:
        """Return the bytes that have come in over the cable so far."""
        return int(Path("/sys/class/net", self._cable, "statistics", "tx_bytes").read_text())

    def lxd(self, *command: str, text: str = "") -> str:
        """Run one of the product's own commands against this daemon; return its output."""
        return _run(*command, text=text, environment={self.product.folder: str(self.folder / self.product.key)})

    def let_go(self) -> None:
        """Let the machine's processes outlive this one."""
        for process in (self._holder, self._daemon):
            if process:
                process.returncode = 0


class Lab:
    """The five machines, and gateways to their three servers."""

    def __init__(self) -> None:
        self.nodes = {name: Node(name) for name in ADDRESS}
        self.took: dict[str, float] = {}

    @property
    def cluster(self) -> LxdGateway:
        """The gateway to the cluster through node1."""
        return self.gateway("node1")

    def gateway(self, name: str) -> LxdGateway:
        """Return a new gateway to the server of one machine, over the network like the bot's."""
        return LxdGateway(
            self.nodes[name].url,
            certificate=(str(ROOT / "client.crt"), str(ROOT / "client.key")),
            server_certificate=str(ROOT / f"{name}.crt"),
        )

    def host(self, name: str) -> LxdGateway:
        """Return the gateway to one host: a standalone server, or a member of the cluster."""
        return self.cluster.at(name) if name in MEMBERS else self.gateway(name)

    def up(self) -> None:
        """Start everything, with the bot's project and the tiny image on each server."""
        clean()
        with local_lxd.alone():
            local_shared.raise_limits(print)
        ROOT.mkdir()
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", "10.88.0.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        with self._part("daemons"), ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(Node.boot, self.nodes.values()))
        with self._part("cluster"):
            self_signed(ROOT, "mautic-ops lab", days=30)
            self._configure()
        with self._part("projects and images"), ThreadPoolExecutor(3) as threads:
            _run(str(Path(__file__).with_name("tiny_image.sh")), str(ROOT / "tiny.tar.gz"))
            list(threads.map(self._furnish, ("node1", *SINGLE)))

    def _configure(self) -> None:
        first, *others = (self.nodes[name] for name in MEMBERS)
        for node in (first, *(self.nodes[name] for name in SINGLE)):
            config = f"config: {{core.https_address: '{node.address}:8443', images.auto_update_interval: '0'}}\n"
            if node is first:
                config += f"cluster: {{enabled: true, server_name: {node.name}}}\n"
            node.lxd("lxd", "init", "--preseed", text=config)
        for node in others:
            token = first.lxd("lxc", "cluster", "add", node.name).split()[-1]
            joining = f"server_name: {node.name}, server_address: '{node.address}:8443', cluster_token: {token}"
            node.lxd("lxd", "init", "--preseed", text=f"cluster: {{enabled: true, {joining}}}\n")

    def _furnish(self, name: str) -> None:
        node = self.nodes[name]
        node.lxd("lxc", "config", "trust", "add", str(ROOT / "client.crt"), "--name", "mautic-ops")
        for other in MEMBERS if name in MEMBERS else (name,):
            certificate = "cluster.crt" if name in MEMBERS else "server.crt"
            shutil.copy(node.folder / "lxd" / certificate, ROOT / f"{other}.crt")
        lxd = self.gateway(name)
        lxd.ensure_project(pool_driver="btrfs", pool_size="10GiB", subnet=SUBNET)
        lxd.import_image(str(ROOT / "tiny.tar.gz"), TINY, {"os": "tiny"})

    def add_incus(self) -> Node:
        """Start the Incus server beside the others, and set it up like them, unless it is there already."""
        name, address = INCUS_NODE
        if name not in self.nodes:
            node = Node(name, address, INCUS)
            with incus_packages.in_path():
                node.boot()
                node.lxd("incus", "config", "set", "core.https_address", f"{address}:8443")
                node.lxd("incus", "config", "trust", "add-certificate", str(ROOT / "client.crt"))
            shutil.copy(node.folder / INCUS.key / "server.crt", ROOT / f"{name}.crt")
            self.nodes[name] = node
            self.gateway(name).ensure_project(pool_driver="btrfs", pool_size="10GiB", subnet=SUBNET)
        return self.nodes[name]

    def down(self) -> None:
        """Remove everything."""
        clean()
        self.let_go()

    def let_go(self) -> None:
        """Let the processes of all machines outlive this one."""
        for node in self.nodes.values():
            node.let_go()

    @contextmanager
    def _part(self, title: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took[title] = time.monotonic() - began


@contextmanager
def _alone() -> Iterator[None]:
    """Allow one lab at a time on this machine."""
    with ROOT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _BY_HAND.exists():
            raise LxdUnavailable("There is a lab that was brought up by hand; `make lab-down` takes it away.")
        yield


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab, for the whole session.

    Skips where no LXD can run; fails instead under REQUIRE_LXD=1.
    """
    made = Lab()
    with ExitStack() as stack:
        try:
            if shutil.which("lxd") is None or os.geteuid() != 0:
                raise LxdUnavailable("The lab needs LXD installed (`make up` does that), and root.")
            stack.enter_context(_alone())
            stack.callback(made.down)
            made.up()
        except LxdUnavailable as error:
            without_lxd(error)
        yield made


def clean() -> None:
    """Remove the lab, even one that a killed run left: its processes, its bridge and cables, its files."""
    end(_processes())
    for link in (BRIDGE, *(f"{BRIDGE}{address[-1]}" for address in (*ADDRESS.values(), INCUS_NODE[1]))):
        if Path("/sys/class/net", link).exists():
            _run("ip", "link", "delete", link)
    for group in (found for depth in ("", "*/") for found in Path("/sys/fs/cgroup").glob(f"{depth}lxc.*.mautic-ops_*")):
        for folder, _, _ in os.walk(group, topdown=False):
            # A group that is in use, by a bot beside the lab, cannot be removed.
            with suppress(OSError):
                os.rmdir(folder)
    shutil.rmtree(ROOT, ignore_errors=True)
    # A server beside the lab may have ended earlier, and left what they share to the lab.
    local_lxd.leave()


def end(pids: Sequence[int]) -> None:
    """Kill processes, including frozen ones, and wait for their end."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _thaw(pid)
    give_up = time.monotonic() + _SECONDS
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > give_up:
            raise LxdUnavailable(f"The lab's processes {pids} do not end.")
        time.sleep(0.02)


def _thaw(pid: int) -> None:
    """Thaw a process that is frozen for a snapshot: with control groups of version 1 it would not get its SIGKILL."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "freezer" and group != "/":
                Path(f"/sys/fs/cgroup/freezer{group}/freezer.state").write_text("THAWED")


def _processes() -> list[int]:
    """Return the lab's processes: those with the mark, and the init processes of containers whose monitors have it.

    Incus starts its monitors without our environment: they are recognised by the folder in their command line.
    """
    marked, parents, here = [], {}, os.readlink("/proc/self/ns/pid")
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(path.name)
            parents[pid] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            ours = _MARK.encode() in (path / "environ").read_bytes().split(b"\0")
            named = ours or f"[lxc monitor] {ROOT}/".encode() in (path / "cmdline").read_bytes()
            if pid != os.getpid() and named and os.readlink(path / "ns" / "pid") == here:
                marked.append(pid)
    return marked + [pid for pid, parent in parents.items() if parent in marked and pid not in marked]


def _alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return Path(f"/proc/{pid}").exists()


def _environment() -> dict[str, str]:
    name, _, value = _MARK.partition("=")
    return {**os.environ, name: value, "LXD_CONF": str(ROOT / "lxc")}


def _run(*command: str, text: str = "", environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(
        command,
        env={**_environment(), **(environment or {})},
        input=text,
        capture_output=True,
        text=True,
        timeout=2 * _SECONDS,
        check=False,
    )
    if ended.returncode:
        raise LxdUnavailable(f"`{' '.join(command[:3])}` failed: {(ended.stderr or ended.stdout).strip()}")
    return ended.stdout


def configuration(lab: Lab, single: Iterable[str] = SINGLE) -> str:
    """Return a mautic-ops.toml for a bot over the lab; `single`: its standalone servers."""

    def door(name: str) -> str:
        return (
            f'endpoint = "{lab.nodes[name].url}"\ncertificate = "{ROOT}/client.crt"\nkey = "{ROOT}/client.key"\n'
            f'server_certificate = "{ROOT}/{name}.crt"\n'
        )

    servers = "".join(f'\n[servers.{name}]\n{door(name)}listen = "{lab.nodes[name].address}"\n' for name in single)
    return (
        f'[bot]\nstate = "{ROOT}/state"\n\n[lxd]\nname = "cluster"\n{door("node1")}subnet = "{SUBNET}"\n{servers}\n'
        f'[edge]\nlisten = "{lab.nodes["node1"].address}"\n'
    )


def main(verb: str) -> None:
    """Start the lab so that it stays, or remove it."""
    if verb == "down":
        clean()
        return
    with _alone():
        lab = Lab()
        try:
            lab.up()
        except BaseException:
            lab.down()
            raise
        lab.let_go()
        file = ROOT / "mautic-ops.toml"
        file.write_text(configuration(lab))
        _BY_HAND.touch()
    for title, seconds in lab.took.items():
        print(f"  {seconds:5.1f} s  {title}")
    for node in lab.nodes.values():
        print(f"  {node.name}: {node.url}, or by hand: LXD_DIR={node.folder}/lxd lxc list --project mautic-ops")
    print(
        f"The bot's way to it: `export MAUTIC_OPS_CONFIG={file}`, then `make up`. `make lab-down` takes the lab away."
    )


if __name__ == "__main__":
    main(sys.argv[1])
