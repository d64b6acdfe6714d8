"""A move to another server that fails where the copy is to start, and cannot be taken back either."""

from __future__ import annotations

from typing import NoReturn

import pytest

from bot.lxd.protocol import LxdError
from bot.store.operation import Operation
from tests.support.bot import OPERATOR, Bench
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried for long, and a sweep finds at once what would have to last."""
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.0)
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)


@pytest.fixture
def other() -> SimulatedLxd:
    """The server `solo` that `half_moved` moves to, beside the bench's own."""
    return SimulatedLxd()


def starts(yes: bool, *servers: SimulatedLxd) -> None:
    """Say whether containers start on these servers."""

    def call(method: str, _: object) -> None:
        if method == "start":
            broken()

    for lxd in servers:
        lxd.on_call = None if yes else call


def broken() -> NoReturn:
    """Fail as a container that LXD does not start."""
    raise LxdError("LXD could not start it: dataset is busy.")


def half_moved(bench: Bench, other: SimulatedLxd) -> Operation:
    """Move client-x to `solo` while containers start nowhere, which goes on; the operation, which needs attention."""
    starts(False, bench.lxd, other)
    operation = bench.done("migrate client-x solo", OPERATOR)
    assert operation.state == "needs_attention"
    return operation
