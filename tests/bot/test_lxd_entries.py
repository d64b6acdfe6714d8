"""What a server tells of an instance, where somebody in it has a say."""

from __future__ import annotations

import pytest

from bot.lxd.entries import instance, state
from bot.lxd.local import daemon
from bot.lxd.wire import put_back
from bot.model.labels import as_labels


def test_who_calls_itself_ready_runs_all_the_same() -> None:
    """Root in a container can (`PATCH /1.0` of devlxd), and must not keep it from being stopped by that."""
    entry = {"name": "t", "status": "Ready", "config": {}, "devices": {}, "profiles": [], "created_at": ""}
    assert instance(entry).running
    assert state({"status": "Ready"}).status == "Running"


def test_a_network_that_somebody_wrote_nonsense_of_is_none_to_put_back() -> None:
    for nonsense in ("yes", "[]", "3", '{"type": '):
        assert put_back(as_labels(network_before=nonsense)) is None
    assert put_back(as_labels(network_before='{"type": "nic"}')) == (as_labels(network_before=""), {"type": "nic"})


def test_who_calls_itself_ready_is_counted_among_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server whose tenants all run would be waited for."""
    listed = [
        {"status": "Ready", "config": {}},
        {"status": "Stopped", "config": {"volatile.last_state.power": "RUNNING"}},
    ]
    monkeypatch.setattr("bot.lxd.local.daemon.told", lambda *_: listed)
    assert daemon._doing("/nowhere") == "starts its containers: 1 of 2 run"
