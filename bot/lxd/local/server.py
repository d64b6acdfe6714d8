"""Finds an LXD or Incus server on this machine, brings one up where there is none, and removes it without a trace.

Where a service manager runs, the server is the distribution's and stays. Elsewhere the bot runs a daemon of its own.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from bot.lxd.gateway import LxdGateway
from bot.lxd.local import install as local_install
from bot.lxd.local import shared as local_shared
from bot.lxd.local.daemon import (
    READY_SECONDS,
    LocalLxd,
    answers,
    environment,
    folder_of,
    kept_product,
    pid_of,
    processes,
    product_of,
    start_daemon,
    wait_until_ready,
)
from bot.lxd.local.install import install, refuse_where_impossible, service_manager
from bot.lxd.local.processes import end_all
from bot.lxd.local.remains import create_missing_volumes, end_the_rest, take_away, unmount, wait_for_veths
from bot.lxd.local.shared import Progress
from bot.lxd.products import PRODUCTS, Product, at
from bot.lxd.protocol import LxdError, LxdUnavailable


def find(state: Path, only: Product | None = None) -> LocalLxd | None:
    """Return the server that answers on this machine, or None. `state`: the bot's state folder, for its own daemon.

    `only`: a server of this product, and no other.
    """
    own = folder_of(state, only)
    places: list[tuple[Product | None, str]] = [(product, os.environ.get(product.socket, "")) for product in PRODUCTS]
    places += [(one, str(Path(os.environ[one.folder], "unix.socket"))) for one in PRODUCTS if one.folder in os.environ]
    places += [(at(path), path) for path in local_install.SYSTEM_SOCKETS]
    places.append((product_of(own), str(own / "unix.socket")))
    for product, path in places:
        if path and only in (None, product) and answers(path, "/1.0"):
            return LocalLxd(path, own=path == str(own / "unix.socket"))
    return None


def up(state: Path, progress: Progress, only: Product | None = None) -> LocalLxd:
    """Return a server of this machine, installed and started when there is none; `progress` gets lines for a person.

    `only`: a server of this product, and no other. Quick when the server already runs. Raises LxdUnavailable with a
    reason when none can run here.
    """
    with alone():
        found = find(state, only)
        if found is not None and found.own and (pid := pid_of(folder_of(state, only))) is not None:
            # The server answers before it has started its containers.
            found = wait_until_ready(folder_of(state, only), pid, progress)
        elif found is None:
            found = _bring_up(state, progress, only)
        if os.geteuid() == 0:
            local_shared.raise_limits(progress)
        return found


def _bring_up(state: Path, progress: Progress, only: Product | None) -> LocalLxd:
    kept = folder_of(state, only)
    if (pid := pid_of(kept)) is not None:
        # The daemon runs but is slow to answer: a second one beside it would do harm.
        with suppress(LxdUnavailable):
            return wait_until_ready(kept, pid, progress)
    refuse_where_impossible()
    product = install(progress, only or kept_product(state))
    # Where a service manager runs, the package has just started the server.
    return _wait_for_service(state, product) if service_manager() else start_daemon(state, product, progress)


def _wait_for_service(state: Path, product: Product) -> LocalLxd:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        found = find(state)
        if found is not None:
            return found
        time.sleep(0.2)
    raise LxdUnavailable(
        f"{product.name} is installed, but its service does not answer; `systemctl status {product.key}` says more."
    )


def keep(state: Path, endpoint: str, progress: Progress) -> bool:
    """Start what belongs to the bot on this machine and has died: its server at `endpoint`, and lxcfs.

    Return whether the server was started. A server that `stop` ended stays stopped, and nobody else's is touched.
    """
    folder = folder_of(state)
    if endpoint not in ("", str(folder / "unix.socket")) or not folder.with_suffix(".pid").exists():
        return False
    if pid_of(folder) is not None and not local_shared.lxcfs_died():
        return False
    with alone():
        if not folder.with_suffix(".pid").exists():
            return False
        if local_shared.lxcfs_died():
            local_shared.start_lxcfs(folder.with_suffix(".log"), progress)
        if pid_of(folder) is not None:
            return False
        start_daemon(state, product_of(folder), progress)
        return True


def stop(state: Path) -> bool:
    """Stop the bot's own daemon with its containers; return whether any of it ran. Other servers go on."""
    folder = folder_of(state)
    with alone():
        pid = pid_of(folder)
        if pid is not None:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [*product_of(folder).shutdown, "--timeout", "60"],
                    env=environment(folder),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=90,
                    check=False,
                )
            end_all([pid])
        elif not processes(folder):
            return False
        # The containers of a daemon that died go on.
        end_the_rest(folder)
        wait_for_veths(folder)
        unmount(folder)
        folder.with_suffix(".pid").unlink(missing_ok=True)
        return True


def remove(state: Path, *, project: str, pool: str, network: str, profile: str, only: Product | None = None) -> None:
    """Remove all that the bot made on this machine's server, and the server too when it is the bot's own.

    The bot's own server goes whatever state it is in: dead, hanging, or unable to start. `only`: a server of this
    product, and no other.
    """
    folder = folder_of(state, only)
    found = find(state, only or kept_product(state))
    if found is not None:
        lxd = LxdGateway(found.socket, project=project, pool=pool, network=network, profile=profile)
        try:
            lxd.remove_project()
        except LxdError:
            create_missing_volumes(found.socket, project, pool)
            # What the bot's own server cannot remove is removed with the server.
            with suppress(LxdError) if found.own else nullcontext():
                lxd.remove_project()
    with alone():
        take_away(folder)
    leave()


def leave() -> None:
    """Remove what the servers of this machine share, once no server is left."""
    with alone():
        if not local_shared.another_server():
            local_shared.stop_lxcfs()
            local_shared.restore_limits()
            local_shared.remove_unused_veths()
    with suppress(OSError):
        local_shared.HOME.rmdir()


@contextmanager
def alone() -> Iterator[None]:
    """Keep two processes of the bot from starting or ending daemons at once.

    All servers on a machine share its limits and its lxcfs.
    """
    with Path("/run/mautic-ops.lock" if os.geteuid() == 0 else os.devnull).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
