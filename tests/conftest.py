"""Fixtures every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.workspace import WorkspaceServer

pytest_plugins = ["tests.support.real_lxd", "tests.support.lab", "tests.support.world", "tests.support.lab_world"]

# Seconds are no property: a busy machine may pause anything.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceServer]:
    """A fresh local workspace with short event retries."""
    server = WorkspaceServer(tmp_path / "workspace", "--retry-delays", "0,0.2,0.2")
    yield server
    server.stop()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs the lab: it runs beside what shares one edge."""
    if "lab" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.lab)
