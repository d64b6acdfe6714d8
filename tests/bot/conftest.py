"""Makes the bot give up on an unreachable host at once, so that no test waits for one."""

import pytest


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.0)
