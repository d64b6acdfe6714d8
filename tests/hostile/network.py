"""Helpers for attacks on the network: networks beside the tenants' own, and packets that no normal program sends."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bot.lxd.gateway import LxdGateway

WEB, MAIL = "198.51.100.10:443", "198.51.100.10:25"
PRIVATE, RELAY = "10.99.0.25:80", "10.99.0.25:25"
METADATA = "169.254.169.254:80"
_ADDRESSES = ("198.51.100.10", "10.99.0.25", "169.254.169.254")
_LISTEN = """
import socket, sys
print("apart", flush=True)
sys.stdin.readline()
doors = [socket.create_server(("", port)) for port in map(int, sys.argv[1:])]
print("ready", flush=True)
sys.stdin.read()
"""


def command(*words: str, check: bool = True) -> str:
    """Run a program and return what it prints."""
    return subprocess.run(words, check=check, capture_output=True, text=True).stdout


@contextmanager
def elsewhere(host_end: str = "mopshostile") -> Iterator[None]:
    """Run a machine on a cable of its own beside the host, with public, private and cloud metadata addresses."""
    # Left by a killed run.
    command("ip", "link", "delete", host_end, check=False)
    inside = [sys.executable, "-c", _LISTEN, "25", "80", "443"]
    server = subprocess.Popen(["unshare", "--net", *inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdin
        assert server.stdout
        # Until it prints that, its network is the host's, which may have an `eth0`.
        assert server.stdout.readline() == "apart\n"
        command("ip", "link", "add", host_end, "type", "veth", "peer", "name", "eth0", "netns", str(server.pid))
        within = ("nsenter", "--net", "--target", str(server.pid), "ip")
        for address in _ADDRESSES:
            command(*within, "address", "add", f"{address}/32", "dev", "eth0")
        command(*within, "link", "set", "eth0", "up")
        command(*within, "route", "add", "10.99.0.1", "dev", "eth0")
        command("ip", "address", "add", "10.99.0.1/32", "dev", host_end)
        command("ip", "link", "set", host_end, "up")
        for address in _ADDRESSES:
            command("ip", "route", "add", f"{address}/32", "dev", host_end, "src", "10.99.0.1")
        server.stdin.write("\n")
        server.stdin.flush()
        assert server.stdout.readline() == "ready\n"
        yield
    finally:
        server.kill()
        server.communicate()
        command("ip", "link", "delete", host_end, check=False)


@contextmanager
def open_port(address: str = "") -> Iterator[int]:
    """Open a port of the host to everybody who reaches it, as LXD's API or SSH may be, and yield its number."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        yield server.getsockname()[1]


def own_address() -> str:
    """Return an address of this host on a network other than the tests' bridges."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_way:
        any_way.connect(("198.51.100.1", 9))
        return str(any_way.getsockname()[0])


def reaches(lxd: LxdGateway, name: str, target: str) -> bool:
    """Return whether a connection to `target` can be made from inside a container."""
    address, _, port = target.rpartition(":")
    # nc ends with 1 if it is refused or never answered; `timeout` ends it if the other side accepts and says nothing.
    return lxd.execute(name, ["sh", "-c", f"timeout 4 nc -w 2 {address} {port} < /dev/null"]).code != 1


def pid(lxd: LxdGateway, name: str) -> str:
    """Return the process id of a running container's first process, as the host sees it."""
    return str(lxd.connection.get(f"instances/{name}/state", "read")["pid"])


def inside_network(lxd: LxdGateway, name: str, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run Python in a container's network: root inside could bring any program along."""
    words = ["nsenter", "--net", "--target", pid(lxd, name), sys.executable, "-c", script, *arguments]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def filters_ipv6() -> bool:
    """Return whether this kernel lets LXD filter IPv6 on a bridge."""
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-ip6tables") as switch:
            return switch.read().strip() == "1"
    except FileNotFoundError:
        return False


ADVERTISE = """
import socket, struct, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
mac = wire.getsockname()[4]
link = b"\\xfe\\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\\xff\\xfe" + mac[3:]
prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 1800, 900, 0, bytes.fromhex("20010db8") + bytes(12))
body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + b"\\x01\\x01" + mac
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
all_nodes = bytes.fromhex("ff02" + "00" * 13 + "01")
pseudo = link + all_nodes + struct.pack("!II", len(body), 58)
body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
packet = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + link + all_nodes + body
for _ in range(10):
    wire.send(bytes.fromhex("333300000001") + mac + b"\\x86\\xdd" + packet)
    time.sleep(0.05)
"""
"""Announces itself as the router, ten times."""

STARVE = """
import socket, struct, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
mac = wire.getsockname()[4]
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
for number in range(20):
    someone = bytes.fromhex(sys.argv[1].replace(":", "")) + bytes([number])
    # Rapid commit: one message is enough for a lease.
    options = bytes.fromhex("63825363") + b"\\x35\\x01\\x01" + b"\\x50\\x00" + b"\\xff"
    dhcp = struct.pack("!BBBBIHHIIII16s64s128s", 1, 1, 6, 0, number + 7, 0, 0x8000, 0, 0, 0, 0, someone, b"", b"")
    dhcp += options
    udp = struct.pack("!HHHH", 68, 67, 8 + len(dhcp), 0) + dhcp
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, bytes(4), b"\\xff" * 4)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    wire.send(b"\\xff" * 6 + mac + b"\\x08\\x00" + head + udp)
    time.sleep(0.02)
"""
"""Requests twenty addresses for other machines, whose MACs begin with the argument."""

SCAN = """
import errno, select, socket, sys
def begin(port):
    one = socket.socket()
    one.setblocking(False)
    refused = one.connect_ex((sys.argv[1], port)) not in (0, errno.EINPROGRESS)
    return None if refused else one
for first in range(1, 10001, 500):
    asked = {port: one for port in range(first, first + 500) if (one := begin(port))}
    known = {one.fileno(): (port, one) for port, one in asked.items()}
    poll = select.poll()
    for number in known:
        poll.register(number, select.POLLOUT)
    while known:
        answers = poll.poll(500)
        for number, _ in answers:
            port, one = known.pop(number)
            poll.unregister(number)
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                print(port, flush=True)
        if not answers:
            break
    for one in asked.values():
        one.close()
"""
"""Tries the first ten thousand ports of an address, and prints those that accept a connection."""

LISTEN_FOR = """
import select, socket, sys, time
kind = sys.argv[1]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 3))
print("listening", flush=True)
end, found = time.monotonic() + float(sys.argv[2]), 0
while (left := end - time.monotonic()) > 0:
    if select.select([wire], [], [], left)[0]:
        frame = wire.recv(2048)
        advert = frame[12:14] == b"\\x86\\xdd" and frame[20] == 58 and frame[54] == 134
        offer = frame[12:14] == b"\\x08\\x00" and frame[23] == 17 and frame[34:38] == b"\\x00\\x43\\x00\\x44"
        found += {"router": advert, "offer": offer}[kind]
print(found, flush=True)
"""
"""Counts incoming packets: advertisements of routers, or offers of addresses."""
