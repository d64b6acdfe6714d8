"""Fixtures every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.workspace import WorkspaceServer

pytest_plugins = ["tests.support.real_lxd", "tests.support.world"]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceServer]:
    """A fresh local workspace with short event retries."""
    server = WorkspaceServer(tmp_path / "workspace", "--retry-delays", "0,0.2,0.2")
    yield server
    server.stop()


@pytest.hookimpl(tryfirst=True)  # Before xdist reads the marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker, and on one all that share the session's blueprint and edge."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group("host" if folder in ("e2e", "lab") else str(item.path)))
