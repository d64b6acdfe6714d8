"""An unreachable host does not keep the others from being brought up."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bot import local_stack
from bot.lxd.protocol import LxdUnavailable
from bot.providers import real_edges
from bot.settings import ServerSettings
from tests.support.bot import add_blueprint, settings_in
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimulatedLxd]:
    """The server of the table `[lxd]`, and another one."""
    made = {"local": SimulatedLxd(), "solo": SimulatedLxd()}
    add_blueprint(made["local"])
    monkeypatch.setattr(local_stack, "gateways", lambda _: made)
    monkeypatch.setattr(local_stack, "real_edges", lambda *_: SimpleNamespace(ensure=lambda _: None))
    return made


def silence(lxd: SimulatedLxd) -> None:
    def silent(*_: Any) -> None:
        raise LxdUnavailable("LXD at 192.0.2.1 cannot be reached; is it running?")

    lxd.on_call = silent


def test_an_unreachable_server_is_reported(
    servers: dict[str, SimulatedLxd], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silence(servers["solo"])
    local_stack._prepare(settings_in(tmp_path), local_stack.Parts())
    assert "solo: LXD at 192.0.2.1 cannot be reached" in capsys.readouterr().out


def test_without_the_first_server_nothing_is_brought_up(servers: dict[str, SimulatedLxd], tmp_path: Path) -> None:
    silence(servers["local"])
    with pytest.raises(local_stack.CannotBringUp, match=r"192\.0\.2\.1 cannot be reached"):
        local_stack._prepare(settings_in(tmp_path), local_stack.Parts())


def test_a_silent_server_does_not_delay_the_edges_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.providers.ANSWER", 0.2)
    cluster = SimulatedLxd(members=("node1", "node2"))
    settings = replace(settings_in(tmp_path), servers={"far": ServerSettings("https://192.0.2.1:8443")})
    edges = real_edges(settings, {"local": SimulatedLxd(), "far": cluster})
    assert list(edges._known()) == ["local", "node1", "node2"]
    asked, over = [], threading.Event()

    def silent(*_: Any) -> None:
        asked.append(1)
        assert over.wait(10)

    cluster.on_call = silent
    assert list(edges._known()) == ["local", "node1", "node2"], "the members are those last seen"
    assert (asked, over.is_set()) == ([1], False)
    over.set()
