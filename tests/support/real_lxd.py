"""Real LXD and Incus servers for the tests that need one: one daemon of each for all test sessions on this machine.

If `MAUTIC_OPS_TEST_LXD` (or `…_INCUS`) names a unix socket, that server is used, else one that is found or started
here. The last process that uses a server removes everything again, including a daemon that was started here.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TextIO

import pytest

from bot.lxd.gateway import LxdGateway
from bot.lxd.local import server as local_lxd
from bot.lxd.packages import missing
from bot.lxd.products import INCUS, LXD, Product
from bot.lxd.protocol import Lxd, LxdUnavailable, NotFound
from tests.support import incus_packages
from tests.support.packages import SUITE
from tests.support.workspace import free_port

SHARED = Path("/tmp/mautic-ops-tests")
_IS_BESIDE = bool(os.environ.get("MAUTIC_OPS_TEST_BESIDE"))
PROJECT = "mautic-ops-test-beside" if _IS_BESIDE else "mautic-ops-test"
"""The project, its pool and its profile. The names differ because both halves of a run may share the machine's LXD."""
TINY = "tiny"


@dataclass(frozen=True)
class Place:
    """Folder, network and addresses for the tests of one product, as the daemons of both run on one machine.

    `named`: the variable that names a server to use. `other`: a bridge for a second project, and its subnet. `listen`:
    the address of the edge.
    """

    product: Product
    fixture: str
    folder: Path
    network: str
    subnet: str
    other: tuple[str, str]
    listen: str
    named: str
    programs: Callable[[], AbstractContextManager[None]]

    def gateway(self, endpoint: str) -> LxdGateway:
        """Return the gateway to the tests' project."""
        return LxdGateway(endpoint, project=PROJECT, pool=PROJECT, network=self.network, profile=PROJECT)


_FIRST = Place(
    LXD,
    "real_lxd",
    SHARED,
    "mopstest0",
    "10.71.0.1/24",
    ("mopstest1", "10.72.0.1/24"),
    "127.0.0.71",
    "MAUTIC_OPS_TEST_LXD",
    nullcontext,
)
BESIDE = replace(
    _FIRST,
    folder=SHARED / "beside",
    network="mopstest2",
    subnet="10.78.0.1/24",
    other=("mopstest3", "10.79.0.1/24"),
    listen="127.0.0.76",
    named="MAUTIC_OPS_TEST_LXD_BESIDE",
)
"""The place for half of the tests that share an edge: `make test` sets MAUTIC_OPS_TEST_BESIDE for that half."""
LXD_PLACE = BESIDE if _IS_BESIDE else _FIRST
INCUS_PLACE = Place(
    INCUS,
    "real_incus",
    incus_packages.FOLDER,
    "mopstesti0",
    "10.74.0.1/24",
    ("mopstesti1", "10.75.0.1/24"),
    "127.0.0.74",
    "MAUTIC_OPS_TEST_INCUS",
    incus_packages.in_path,
)
PLACES = (LXD_PLACE, INCUS_PLACE)


@pytest.fixture(scope="session")
def real_lxd() -> Iterator[LxdGateway]:
    """A real server with a project, pool, bridge and profile for tests, and the tiny image as `tiny`.

    Skips where no LXD can run; fails instead under REQUIRE_LXD=1.
    """
    yield from _served(LXD_PLACE)


@pytest.fixture(scope="session")
def real_incus() -> Iterator[LxdGateway]:
    """The same for Incus; if it is not installed, its packages are fetched from Debian's backports."""
    yield from _served(INCUS_PLACE)


def _served(place: Place) -> Iterator[LxdGateway]:
    need("busybox")
    place.folder.mkdir(parents=True, exist_ok=True)
    with (place.folder / "in-use").open("w") as in_use:
        try:
            with _turn(place), place.programs():
                daemon = shutil.which(place.product.daemon)
                if os.environ.get("REQUIRE_LXD") != "1" and daemon is None and _named(place) == "":
                    raise LxdUnavailable(f"{place.product.name} is not installed (`make up` does that).")
                if _alone(in_use):
                    # Anything that exists was left by a killed run.
                    _remove(place)
                fcntl.flock(in_use, fcntl.LOCK_SH)
                lxd = place.gateway(_named(place) or local_lxd.up(place.folder, lambda _: None, place.product).socket)
                lxd.ensure_project(pool_driver="btrfs", pool_size="20GiB", subnet=place.subnet)
                image = place.folder / "tiny.tar.gz"
                subprocess.run([str(Path(__file__).with_name("tiny_image.sh")), str(image)], check=True)
                lxd.import_image(str(image), TINY, {"os": "tiny"})
        except LxdUnavailable as error:
            without_lxd(error, place.product)
        yield lxd
        with _turn(place), place.programs():
            if _alone(in_use):
                _remove(place)


@pytest.fixture
def real_name(real_lxd: LxdGateway) -> Iterator[Callable[[], str]]:
    """A function that returns unused names; the instances of these names are deleted after the test."""
    with names_at(real_lxd) as name:
        yield name


@pytest.fixture(params=PLACES, ids=lambda place: place.product.name)
def place(request: pytest.FixtureRequest) -> Place:
    """The place of each product in turn."""
    found: Place = request.param
    return found


@pytest.fixture
def lxd(place: Place, request: pytest.FixtureRequest) -> LxdGateway:
    """A real server of each product in turn."""
    found: LxdGateway = request.getfixturevalue(place.fixture)
    return found


@pytest.fixture
def new_name(lxd: LxdGateway) -> Iterator[Callable[[], str]]:
    """The same as `real_name`, for the server of `lxd`."""
    with names_at(lxd) as name:
        yield name


@contextmanager
def names_at(lxd: Lxd) -> Iterator[Callable[[], str]]:
    """Yield a function that returns unused names; the instances of these names are deleted at the end."""
    names: list[str] = []

    def name() -> str:
        names.append(f"t{secrets.token_hex(4)}")
        return names[-1]

    yield name
    for made in names:
        with suppress(NotFound):
            lxd.stop(made, force=True)
            lxd.update(made, {"security.protection.delete": None})
            lxd.delete(made)


@contextmanager
def listening(lxd: LxdGateway, place: Place, at: str = "127.0.0.1") -> Iterator[str]:
    """Make a server listen at an address of this machine, and yield its URL; it listens at one address at a time."""
    with (place.folder / "https.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address = f"{at}:{free_port()}"
        before = lxd.connection.get("", "read", project=False)["config"].get("core.https_address", "")

        def listen(address: str) -> None:
            config = {"core.https_address": address}
            lxd.connection.request("patch", "", "listen", json={"config": config}, project=False)

        listen(address)
        try:
            yield f"https://{address}"
        finally:
            listen(before)


def without_lxd(error: LxdUnavailable, product: Product = LXD) -> NoReturn:
    """Skip the test because there is no server, or fail if one is required."""
    if os.environ.get("REQUIRE_LXD") == "1":
        pytest.fail(f"REQUIRE_LXD is set, and there is no {product.name}: {error}")
    pytest.skip(f"NO REAL {product.name.upper()}: {error}")


def need(program: str) -> None:
    """Skip the test if a program is missing, or fail if all programs of the list are required."""
    without = missing(package for package in SUITE if program in package.programs)
    if without and os.environ.get("REQUIRE_LXD") == "1":
        pytest.fail(f"REQUIRE_LXD is set, and {program} is not installed (apt-get install {without[0]}).")
    if without:
        pytest.skip(f"NOT RUN: {program} is not installed (apt-get install {without[0]}).")


def cleared(place: Place, in_use: TextIO) -> bool:
    """Remove the server of a killed run if nobody uses it; return whether it was removed."""
    with _turn(place), place.programs():
        if not _alone(in_use):
            return False
        _remove(place)
        fcntl.flock(in_use, fcntl.LOCK_UN)
        return True


def _named(place: Place) -> str:
    return os.environ.get(place.named, "")


def _remove(place: Place) -> None:
    """Remove all that the tests have at a place, if there is anything."""
    if _named(place):
        place.gateway(_named(place)).remove_project()
    else:
        local_lxd.remove(place.folder, project=PROJECT, pool=PROJECT, network=place.network, profile=PROJECT)


@contextmanager
def _turn(place: Place) -> Iterator[None]:
    """Let one process at a time check whether it is alone, and act on that."""
    with (place.folder / "users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _alone(in_use: TextIO) -> bool:
    """Return whether no other process uses the server: each living user holds a shared lock on this file."""
    with suppress(BlockingIOError):
        fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
