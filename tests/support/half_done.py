"""A move to another server that fails when the copy should start, and cannot be undone either."""

from __future__ import annotations

from typing import NoReturn

import pytest

from bot.lxd.protocol import LxdError
from bot.store.operation import Operation
from tests.support.bot import OPERATOR, Bench
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps give up at once, and a sweep reports at once a problem that would have to last for a while."""
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.0)
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)


@pytest.fixture
def other() -> SimulatedLxd:
    """The server to which `half_moved` moves a tenant, for a bench that has it under the name `solo`."""
    return SimulatedLxd()


def starts(yes: bool, *servers: SimulatedLxd) -> None:
    """Set whether containers start on these servers."""

    def call(method: str, _: object) -> None:
        if method == "start":
            broken()

    for lxd in servers:
        lxd.on_call = None if yes else call


def broken() -> NoReturn:
    """Raise the error of a container that LXD could not start."""
    raise LxdError("LXD could not start it: dataset is busy.")


def half_moved(bench: Bench, other: SimulatedLxd) -> Operation:
    """Move client-x to `solo` while no container starts, now and later; return the operation, which needs attention."""
    starts(False, bench.lxd, other)
    operation = bench.done("migrate client-x solo", OPERATOR)
    assert operation.state == "needs_attention"
    return operation
