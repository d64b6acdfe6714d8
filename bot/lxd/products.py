"""LXD and Incus: one API, two products, and the few facts that tell them apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """What differs between the two, for who speaks with a server and for who runs a daemon on this machine.

    Args:
        name: as people write it, in every message.
        key: as the server calls itself (`environment.server`), and its folders are named.
        daemon: the program, as `--group` takes it.
        shutdown: the command that ends a daemon with its containers; `--timeout SECONDS` goes after it.
        folder: the variable that names the daemon's folder.
        socket: the variable that names the server's socket, for a client.
        sockets: where the distribution's own server answers.
        packages: Debian's.
    """

    name: str
    key: str
    daemon: str
    shutdown: tuple[str, ...]
    folder: str
    socket: str
    sockets: tuple[str, ...]
    packages: tuple[str, ...]


LXD = Product(
    name="LXD",
    key="lxd",
    daemon="lxd",
    shutdown=("lxd", "shutdown"),
    folder="LXD_DIR",
    socket="LXD_SOCKET",
    sockets=("/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"),
    packages=("lxd",),
)
INCUS = Product(
    name="Incus",
    key="incus",
    daemon="incusd",
    shutdown=("incus", "admin", "shutdown"),
    folder="INCUS_DIR",
    socket="INCUS_SOCKET",
    sockets=("/run/incus/unix.socket", "/var/lib/incus/unix.socket"),
    # Without `incus-extra` and QEMU: containers need neither.
    packages=("incus-base", "incus-client"),
)
PRODUCTS = (LXD, INCUS)


def called(key: str) -> Product:
    """Return the product that calls itself so; what is none of the two is taken for LXD, the elder."""
    return next((product for product in PRODUCTS if product.key == key), LXD)


def at(socket: str) -> Product | None:
    """Return the product that a socket's path speaks of, if it does."""
    return next((product for product in PRODUCTS if product.key in socket), None)


def takes(target: str, source: str) -> bool:
    """Whether a server takes copies with their snapshots from another, by the names of their products.

    Incus takes them from LXD. LXD refuses keys that Incus writes into every snapshot (`volatile.uuid.generation`).
    """
    return (target, source) != (LXD.name, INCUS.name)
