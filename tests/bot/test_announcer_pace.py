"""Slack accepts 50 message updates a minute: the bot paces updates of progress, but shows outcomes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.slack import announcer
from bot.store import claims, progress
from tests.support.bot import Desk, make_bench, make_desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Two operations whose cards say that they run."""
    desk = make_desk(make_bench(tmp_path))
    operations = desk.bench.context.operations
    for name in ("client-x", "client-y"):
        desk.bench.approve(desk.bench.ask(f"new {name}"))
        assert claims.claim(operations)
    desk.announce()
    return desk


def updates(desk: Desk) -> int:
    return len([one for one in desk.slack.said if one["method"] == "chat.update"])


def go_on(desk: Desk, position: int) -> None:
    """Begin a step in both operations."""
    operations = desk.bench.context.operations
    for operation in operations.select("state = 'running'"):
        progress.step_started(operations, operation, position)


def test_progress_of_all_cards_is_shown_and_then_paced(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "PROGRESS", 3600.0)
    go_on(desk, 0)
    desk.announce()
    assert updates(desk) == 2
    go_on(desk, 1)
    desk.announce()
    assert updates(desk) == 2
    monkeypatch.setattr(desk.announcer, "_progress_due", 0.0)
    desk.announce()
    assert updates(desk) == 4
    assert "client-y" in desk.slack.said[-1]["text"]


def test_an_outcome_is_shown_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "PROGRESS", 3600.0)
    go_on(desk, 0)
    desk.announce()
    done = desk.bench.context.operations.select("state = 'running'")[0]
    progress.finish(desk.bench.context.operations, done, "failed", outcome="It could not be done.")
    desk.announce()
    assert updates(desk) == 3
    assert "failed" in desk.slack.said[-1]["text"]
