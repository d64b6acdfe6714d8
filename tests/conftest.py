"""Fixtures that every test may use, and how the suite is set up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bot.store import database
from tests.support import own, programs
from tests.support.workspace import WorkspaceServer

pytest_plugins = [
    "tests.support.real_lxd",
    "tests.support.lab",
    "tests.support.world",
    "tests.support.lab_world",
    "tests.support.half_done",
]

# There is no deadline, because a busy machine may pause anything. What passed once must pass again, so the suite tries
# the same examples each time; `make search` looks for new ones.
settings.register_profile(
    "same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, max_examples=200
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False, max_examples=5000, print_blob=True)
settings.load_profile("same")

# No test simulates a power cut, and each of thousands of commits would wait for the disk.
database.SYNCHRONOUS = "OFF"

own.keep_to_it()
programs.watch()

LONGEST = (
    "test_local_lxd.py",
    "test_lxd_contract.py",
    "test_real_lxd.py",
    "test_durability.py",
    "test_chat_page.py",
    "test_digest.py",
)
"""Files that take a minute or more: started first, they end while others still run beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_sessionstart(session: pytest.Session) -> None:
    """End what earlier runs left behind, and leave the checkout."""
    worker = hasattr(session.config, "workerinput")
    if not worker:
        own.end_killed_runs()
    # A process that only distributes tests stays: its workers start in its folder, and look for the tests from there.
    if worker or session.config.getoption("dist", "no") == "no":
        # pytest resolves the paths to ignore from the folder that it is in later.
        ignored = session.config.getoption("ignore") or []
        session.config.option.ignore = [str(Path(path).resolve()) for path in ignored]
        own.leave_the_checkout()


@pytest.fixture(autouse=True)
def _only_programs_of_the_list() -> Iterator[None]:
    yield
    assert programs.look() == [], "add its package to tests/support/packages.py"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceServer]:
    """A fresh local workspace with short event retries."""
    server = WorkspaceServer(tmp_path / "workspace", "--retry-delays", "0,0.2,0.2")
    yield server
    server.stop()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that share one edge, and those that need the lab: the Makefile runs both groups side by side."""
    needs = getattr(item, "fixturenames", ())
    if "lab" in needs:
        item.add_marker(pytest.mark.lab)
    elif {"host", "incus_host"} & {*needs}:
        item.add_marker(pytest.mark.edge)
