"""Fixtures every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.workspace import WorkspaceServer

pytest_plugins = ["tests.support.real_lxd", "tests.support.lab", "tests.support.world", "tests.support.lab_world"]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceServer]:
    """A fresh local workspace with short event retries."""
    server = WorkspaceServer(tmp_path / "workspace", "--retry-delays", "0,0.2,0.2")
    yield server
    server.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares one edge, and what shares the lab: with `--dist loadgroup` each is one worker's.

    First, as pytest-xdist reads the marks in the same hook.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "lab" in fixtures:
            item.add_marker(pytest.mark.xdist_group("lab"))
        elif "real_lxd" in fixtures:
            item.add_marker(pytest.mark.xdist_group("edge"))
