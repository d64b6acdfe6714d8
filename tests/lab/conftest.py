"""Fixtures of the lab's tests, on a real server: the double's blueprint, clones of it, and the edge."""

import runpy
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from bot.edge.edge import Edge
from bot.guest.blueprint.archive import Archive, open_archive
from bot.guest.blueprint.build import Blueprint, build
from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.model.labels import as_labels
from bot.model.tenants import PlanSize
from bot.providers import real_edge
from tests.support.real_lxd import SHARED
from tests.support.world import settings_for

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
CACHE = SHARED / "host" / "cache"
"""The suite's own cache: a bot may be using the one of the checkout."""
BASE_DOMAIN = "e2e.localhost"
SIZE = PlanSize(2, "1GiB", "10GiB", 500, "128M", 4, 1)


@dataclass(frozen=True)
class Clone:
    """A tenant of the test: its instance, its address on the bridge, and its domain."""

    name: str
    address: str
    domain: str


def eventually(look: Callable[[], T], until: Callable[[T], bool], seconds: float = 60) -> T:
    """Call `look` until `until` accepts its result, and return that; fail with the last result after `seconds`."""
    give_up = time.monotonic() + seconds
    while not until(seen := look()):
        assert time.monotonic() < give_up, f"still {seen!r} after {seconds:.0f} s"
        time.sleep(0.05)
    return seen


@pytest.fixture(scope="session")
def double_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("archive") / "mautic-double.zip"
    sha256 = runpy.run_path(str(ROOT / "tests/mautic_double/build.py"))["build"](path)
    return open_archive(str(path), sha256, CACHE)


@pytest.fixture(scope="session")
def blueprint(host: LxdGateway, double_archive: Archive) -> Blueprint:
    """The double's blueprint, which the session's host already has."""
    return build(host, double_archive, base="debootstrap", cache=CACHE, progress=print)


@pytest.fixture(scope="session")
def edge(host: LxdGateway) -> Edge:
    """The session's edge."""
    settings, _ = settings_for(host.endpoint, CACHE.parent)
    return real_edge(settings, host)


@pytest.fixture(scope="module")
def clone(host: LxdGateway, blueprint: Blueprint) -> Iterator[Callable[..., Clone]]:
    """Makes running clones of the blueprint, with an identity unless `sealed`; deletes them after the module."""
    made: list[str] = []

    def make(*, sealed: bool = False, edge_address: str = "") -> Clone:
        name = f"t{secrets.token_hex(4)}"
        domain = f"{name}.{BASE_DOMAIN}"
        made.append(name)
        config = as_labels(role="tenant", tenant=name, domain=domain, state="live")
        host.copy(f"{blueprint.instance}/golden", name, config=config, devices={})
        host.start(name)
        address = eventually(lambda: host.state(name).address, bool)
        if not sealed:
            Mautic(host).identity(
                name,
                domain=domain,
                site_url=f"https://{domain}",
                username="admin",
                email=f"admin@{domain}",
                password=secrets.token_urlsafe(18),
                database_password=secrets.token_urlsafe(18),
                secret_key=secrets.token_hex(32),
                size=SIZE,
                edge_address=edge_address,
            )
        return Clone(name, address, domain)

    yield make
    for name in made:
        host.stop(name, force=True)
        host.delete(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that need the lab's blueprints last: those of the edge's host may be building meanwhile."""
    items.sort(key=lambda item: "fleet" in getattr(item, "fixturenames", ()))
