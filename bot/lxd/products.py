"""LXD and Incus: one API, two products, and the few facts that tell them apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """What differs between the two products, for clients of a server and for the daemon on this machine.

    Args:
        name: as people write it, in every message.
        key: the server's own name for itself (`environment.server`), after which its folders are named.
        daemon: the server program, which takes `--group`.
        shutdown: the command that ends a daemon with its containers; `--timeout SECONDS` is appended.
        folder: the environment variable that names the daemon's folder.
        socket: the environment variable that names the server's socket, for a client.
        sockets: where the distribution's own server listens.
        packages: the names of the Debian packages.
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
    """Return the product with this key; for an unknown key LXD, the older of the two."""
    return next((product for product in PRODUCTS if product.key == key), LXD)


def at(socket: str) -> Product | None:
    """Return the product whose key is in a socket's path, or None."""
    return next((product for product in PRODUCTS if product.key in socket), None)


def takes(target: str, source: str) -> bool:
    """Return whether a server accepts copies with their snapshots from another, by the names of their products.

    Incus accepts them from LXD. LXD refuses keys that Incus writes into every snapshot (`volatile.uuid.generation`).
    """
    return (target, source) != (LXD.name, INCUS.name)
