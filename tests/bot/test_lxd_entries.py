"""What a server reports about an instance, where people can influence the answer."""

from __future__ import annotations

import pytest

from bot.lxd.entries import instance, state
from bot.lxd.local import daemon
from bot.lxd.wire import put_back
from bot.model.labels import as_labels


def test_an_instance_that_reports_ready_counts_as_running() -> None:
    """Root in a container can report that (`PATCH /1.0` of devlxd), which must not keep the bot from stopping it."""
    entry = {"name": "t", "status": "Ready", "config": {}, "devices": {}, "profiles": [], "created_at": ""}
    assert instance(entry).running
    assert state({"status": "Ready"}).status == "Running"


def test_a_network_label_with_nonsense_is_not_put_back() -> None:
    for nonsense in ("yes", "[]", "3", '{"type": '):
        assert put_back(as_labels(network_before=nonsense)) is None
    assert put_back(as_labels(network_before='{"type": "nic"}')) == (as_labels(network_before=""), {"type": "nic"})


def test_the_progress_of_a_starting_daemon_counts_ready_instances_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the bot would wait for a server whose tenants are all running."""
    listed = [
        {"status": "Ready", "config": {}},
        {"status": "Stopped", "config": {"volatile.last_state.power": "RUNNING"}},
    ]
    monkeypatch.setattr("bot.lxd.local.daemon.told", lambda *_: listed)
    assert daemon._doing("/nowhere") == "starts its containers: 1 of 2 run"
