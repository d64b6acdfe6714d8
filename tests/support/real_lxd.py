"""A real LXD server for the tests that need one: one daemon for all workers and sessions of this machine.

The server that `MAUTIC_OPS_TEST_LXD` names (a unix socket) is used when it is set; else the one that is found or
brought up here. The last process that uses it takes everything away again, a daemon of its own included.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from bot import local_lxd
from bot.lxd import LxdUnavailable, NotFound
from bot.lxd_gateway import LxdGateway

SHARED = Path("/tmp/mautic-ops-tests")
PROJECT = "mautic-ops-test"
"""Also the name of the pool and of the profile."""
NETWORK = "mopstest0"
SUBNET = "10.71.0.1/24"
TINY = "tiny"


@pytest.fixture(scope="session")
def real_lxd() -> Iterator[LxdGateway]:
    """A real server with a project, pool, bridge and profile for tests, and the tiny image as `tiny`.

    Skips where no LXD can run; fails instead under REQUIRE_LXD=1.
    """
    try:
        if os.environ.get("REQUIRE_LXD") != "1" and shutil.which("lxd") is None and _named() == "":
            raise LxdUnavailable("LXD is not installed (`make up` does that).")
        with _users() as users:
            socket = _named() or local_lxd.up(SHARED, lambda _: None).socket
            lxd = LxdGateway(socket, project=PROJECT, pool=PROJECT, network=NETWORK, profile=PROJECT)
            users.append(os.getpid())
            lxd.ensure_project(pool_driver="btrfs", pool_size="20GiB", subnet=SUBNET)
            image = SHARED / "tiny.tar.gz"
            subprocess.run([str(Path(__file__).with_name("tiny_image.sh")), str(image)], check=True)
            lxd.import_image(str(image), TINY, {"os": "tiny"})
    except LxdUnavailable as error:
        without_lxd(error)
    yield lxd
    with _users() as users:
        users.remove(os.getpid())
        if not users:
            if _named():
                lxd.remove_project()
            else:
                local_lxd.remove(SHARED, project=PROJECT, pool=PROJECT, network=NETWORK, profile=PROJECT)


@pytest.fixture
def real_name(real_lxd: LxdGateway) -> Iterator[Callable[[], str]]:
    """Makes names that nobody else uses; the instances of these names are deleted after the test."""
    names: list[str] = []

    def name() -> str:
        names.append(f"t{secrets.token_hex(4)}")
        return names[-1]

    yield name
    for made in names:
        with suppress(NotFound):
            real_lxd.stop(made, force=True)
            real_lxd.update(made, {"security.protection.delete": None})
            real_lxd.delete(made)


def without_lxd(error: LxdUnavailable) -> NoReturn:
    """Skip for want of LXD, or fail where it is required."""
    if os.environ.get("REQUIRE_LXD") == "1":
        pytest.fail(f"REQUIRE_LXD is set, and there is no LXD: {error}")
    pytest.skip(f"NO REAL LXD: {error}")


def _named() -> str:
    return os.environ.get("MAUTIC_OPS_TEST_LXD", "")


@contextmanager
def _users() -> Iterator[list[int]]:
    """The processes that use the server, those that died left out; one process at a time has the list."""
    SHARED.mkdir(exist_ok=True)
    with (SHARED / "users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = SHARED / "users.json"
        users = [pid for pid in json.loads(path.read_text()) if Path(f"/proc/{pid}").exists()] if path.exists() else []
        yield users
        path.write_text(json.dumps(users))
