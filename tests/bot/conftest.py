"""Nothing here waits for a host that is out of reach: what is, is so at once and for good."""

import pytest


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.steps.PATIENCE", 0.0)
