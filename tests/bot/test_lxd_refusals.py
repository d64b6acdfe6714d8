"""LXD's refusals are recognised by their kind, and nothing waits for ever for a busy instance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bot.lxd import connection as lxd_connection
from bot.lxd.connection import LxdConnection
from bot.lxd.gateway import LxdGateway
from bot.lxd.leftovers import Leftovers
from bot.lxd.protocol import LxdError, PoolFull, Vanished
from bot.lxd.refusals import Busy, Held, Passing, Unheard

WALK = "Create instance snapshot: {} /var/lib/lxd/storage-pools/p/containers/p_c/rootfs/{}: no such file or directory"


@pytest.fixture
def connection() -> LxdConnection:
    """A connection to no server."""
    return LxdConnection("/nowhere", project="p", pool="p", certificate=None, server_certificate=None, timeout=1)


@pytest.mark.parametrize("call", ["lstat", "readdirent", "open"])
@pytest.mark.parametrize("name", ["c/1", "is busy running", "no space left on device", "not found", "x" * 400])
def test_a_vanished_file_is_reported_as_such_whatever_its_name(connection: LxdConnection, call: str, name: str) -> None:
    """The tenant's users choose the name, and could otherwise choose what the bot takes the error for."""
    told = connection.refusal(WALK.format(call, name), "take the snapshot `s` of `c`")
    assert type(told) is Vanished
    assert str(told) == "The server could not take the snapshot `s` of `c`: files were deleted meanwhile. Try again."


def test_a_missing_file_outside_a_snapshot_is_a_plain_error(connection: LxdConnection) -> None:
    text = "open /var/lib/lxd/containers/p_c/rootfs: no such file or directory"
    assert type(connection.refusal(text, "read `/x` in `c`")) is LxdError


GONE = 'Failed to run: ip -d -j link show vethfe2f36a8: exit status 1 (Device "vethfe2f36a8" does not exist.)'


@pytest.mark.parametrize("times", [1, 4, 5])
def test_a_call_that_failed_because_another_container_ended_is_retried(
    connection: LxdConnection, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Incus looks at all interfaces of its machine when it makes a network."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    tried: list[str] = []

    class Api:
        def __getitem__(self, path: str) -> Api:
            return self

        def post(self, **_: Any) -> str:
            tried.append(GONE)
            if len(tried) <= times:
                raise connection.refusal(f"Failed to delete bridge children interfaces: {GONE}", "make network `n`")
            return "made"

    monkeypatch.setattr(connection, "connected", lambda: SimpleNamespace(api=Api()))
    if times < 5:
        assert connection.request("post", "networks", "make network `n`") == "made"
    else:
        with pytest.raises(Passing, match=r'Device "vethfe2f36a8" does not exist'):
            connection.request("post", "networks", "make network `n`")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (GONE, Passing),
        ('Failed shutting down instance, status is "Running": shutting down the container failed', Unheard),
        ('Failed shutting down instance, status is "Running": context deadline exceeded', LxdError),
        (GONE.replace("vethfe2f36a8", "physFlnr2X"), Passing),
        (GONE.replace("vethfe2f36a8", "another-bridge0"), Passing),
        ("Error deleting storage volume: Cannot remove a volume that has snapshots", Held),
        ("Could not set subvolume flags: operation not permitted", Busy),
        ("Instance is busy running a stop operation", Busy),
        ("open backup.yaml: disk quota exceeded", PoolFull),
    ],
)
def test_a_refusal_is_recognised_by_its_text(connection: LxdConnection, text: str, kind: type[LxdError]) -> None:
    assert type(connection.refusal(text, "delete `c`")) is kind


def test_a_busy_instance_is_waited_for_but_not_for_ever(
    connection: LxdConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def json(verb: str, *_: Any, **__: Any) -> None:
        asked.append(verb)
        raise connection.refusal("Instance is busy running a stop operation", "delete `c`")

    monkeypatch.setattr(connection, "json", json)
    monkeypatch.setattr(lxd_connection, "PATIENT", 0.3)
    with pytest.raises(Busy):
        connection.change("delete", "instances/c", "delete `c`", deadline=lxd_connection.LONG)
    assert len(asked) > 1


def test_an_instance_that_is_held_by_snapshots_is_not_waited_for(
    connection: LxdConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bot has to look for what holds the instance: it does not go away by itself."""

    asked: list[object] = []

    def json(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise connection.refusal("Cannot remove a volume that has snapshots", "delete `c`")

    monkeypatch.setattr(connection, "json", json)
    with pytest.raises(Held):
        connection.change("delete", "instances/c", "delete `c`", deadline=lxd_connection.LONG)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("action", "stops", "asked"),
    [("stop", True, ["stop"]), ("stop", False, ["stop", "stop"]), ("restart", True, ["restart", "stop", "start"])],
)
def test_a_container_that_seems_not_to_have_heard_is_asked_again_unless_it_stops(
    monkeypatch: pytest.MonkeyPatch, action: str, stops: bool, asked: list[str]
) -> None:
    lxd = LxdGateway("/nowhere")
    heard: list[str] = []

    def change(_verb: str, _path: str, doing: str, body: dict[str, Any], **_: Any) -> None:
        heard.append(body["action"])
        if len(heard) == 1:
            text = 'Failed shutting down instance, status is "Running": shutting down the container failed'
            raise lxd.connection.refusal(text, doing)

    monkeypatch.setattr(lxd.connection, "change", change)
    monkeypatch.setattr(lxd, "instance", lambda _: SimpleNamespace(status="Stopped" if stops else "Running"))
    monkeypatch.setattr("bot.lxd.changes.SOON", 0.0)
    getattr(lxd, action)("c")
    assert heard == asked


@pytest.mark.parametrize(
    ("endpoint", "driver", "stays"),
    [("https://10.0.0.5:8443", "btrfs", True), ("https://10.0.0.5:8443", "zfs", False), ("/nowhere", "btrfs", False)],
)
def test_remains_of_a_failed_snapshot_stay_only_on_a_btrfs_pool_of_another_machine(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, driver: str, stays: bool
) -> None:
    connection = LxdConnection(endpoint, project="p", pool="p", certificate=None, server_certificate=None, timeout=1)
    monkeypatch.setattr(connection, "get", lambda *_, **__: {"driver": driver})
    monkeypatch.setattr(LxdConnection, "product", "LXD")
    assert Leftovers(connection, "p", "p").would_stay() is stays


@pytest.mark.parametrize(
    ("how", "frozen"),
    [({}, True), ({"still": True}, True), ({"closed": True}, False), ({"closed": True, "still": True}, True)],
)
def test_where_no_snapshot_may_fail_an_instance_is_frozen_unless_it_is_closed(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, bool], frozen: bool
) -> None:
    lxd = LxdGateway("https://10.0.0.5:8443")
    done: list[str] = []
    monkeypatch.setattr(LxdConnection, "product", "LXD")
    monkeypatch.setattr(lxd.connection, "get", lambda *_, **__: {"driver": "btrfs"})
    monkeypatch.setattr(lxd.connection, "change", lambda *_, **__: done.append("taken"))
    monkeypatch.setattr(lxd, "instance", lambda _: SimpleNamespace(running=True))
    monkeypatch.setattr(lxd, "freeze", lambda _: done.append("frozen"))
    monkeypatch.setattr(lxd, "thaw", lambda _: done.append("thawed"))
    lxd.snapshot("c", "s", **how)
    assert done == (["frozen", "taken", "thawed"] if frozen else ["taken"])
