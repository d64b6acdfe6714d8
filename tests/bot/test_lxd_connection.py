"""The connection to LXD and its errors: each cause has a sentence of its own."""

from __future__ import annotations

import io
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from bot.lxd import connection as lxd_connection
from bot.lxd import inside as lxd_inside
from bot.lxd import sessions as lxd_sessions
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import AlreadyExists, LxdError, LxdUnavailable, NotFound

NOWHERE = "https://127.0.0.1:1"


def said(gateway: LxdGateway) -> str:
    with pytest.raises(LxdUnavailable) as error:
        gateway.server()
    return str(error.value)


@pytest.mark.parametrize("missing", ["bot.crt", "bot.key", "server.crt"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, missing: str) -> None:
    files = [tmp_path / name for name in ("bot.crt", "bot.key", "server.crt")]
    for file in files:
        if file.name != missing:
            file.touch()
    certificate, key, server = map(str, files)
    told = said(LxdGateway(NOWHERE, certificate=(certificate, key), server_certificate=server))
    assert told.endswith(f"it cannot open {tmp_path}/{missing} (No such file or directory).")


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "server.crt"
    file.write_text("-----BEGIN RSA ")
    told = said(LxdGateway(NOWHERE, server_certificate=str(file)))
    assert told.startswith(f"The bot cannot use {file}: certificates in PEM form are needed")


def test_a_key_that_needs_a_password_is_named(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("bot.crt", "bot.key")]
    command = "openssl req -x509 -newkey rsa:2048 -days 1 -subj /CN=bot -passout pass:secret -out {} -keyout {}"
    subprocess.run(command.format(*files).split(), check=True, capture_output=True)
    told = said(LxdGateway(NOWHERE, certificate=(files[0], files[1])))
    assert told.startswith(f"The bot cannot use {', '.join(files)}: ")


def test_threads_wait_for_a_silent_server_in_parallel(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, ThreadPoolExecutor(5) as threads:
        silent.bind(str(tmp_path / "unix.socket"))
        silent.listen(50)
        gateway = LxdGateway(str(tmp_path / "unix.socket"), timeout=1.0)
        began = time.monotonic()
        told = list(threads.map(said, [gateway] * 5))
    assert all("did not answer in time" in one for one in told)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("adapter", [lxd_sessions.TcpAdapter, lxd_sessions.PinnedAdapter])
def test_a_cut_network_is_detected_long_before_an_answer_is_overdue(
    adapter: type[lxd_sessions.TcpAdapter],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool = adapter().poolmanager.connection_from_host(*server.getsockname(), scheme="http")
        connection = pool._new_conn()
        connection.connect()
        told = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        alive = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        connection.close()
    assert (told, alive) == (lxd_sessions.CUT * 1000, 1)
    assert lxd_sessions.CUT < lxd_connection.SHORT / 4


@pytest.mark.parametrize("said", ["read: connection reset by peer", "connect: no such file or directory"])
@pytest.mark.parametrize("times", [4, 10_000])
def test_reading_a_file_is_retried_while_lxds_helper_for_files_is_ending(
    monkeypatch: pytest.MonkeyPatch, said: str, times: int
) -> None:
    gateway = LxdGateway(NOWHERE)
    left = [gateway.connection.refusal(f"unix /proc/self/fd/90/forkfile.sock: {said}", "read it", 500)] * times

    def request(*_: Any, **__: Any) -> Any:
        if left:
            raise left.pop()
        answer = requests.Response()
        answer.raw, answer.headers["X-LXD-type"] = io.BytesIO(b"there"), "file"
        return answer

    monkeypatch.setattr(gateway.connection, "request", request)
    monkeypatch.setattr(lxd_inside, "_HELPER_ENDS", 0.2)
    if times == 4:
        assert gateway.pull("client-x", "/etc/hostname") == b"there"
    else:
        with pytest.raises(LxdUnavailable, match="The server could not read it now"):
            gateway.pull("client-x", "/etc/hostname")


@pytest.mark.parametrize("asked", ["instances", "full_instances"])
def test_instances_of_a_dead_member_are_as_last_seen_and_refused_if_never_seen(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Of the instances on a dead member a real cluster reports only the names."""
    gateway = LxdGateway(NOWHERE)
    gap = dict.fromkeys(("config", "devices", "profiles", "snapshots", "state"))
    gap |= {"name": "client-x", "status": "Error", "location": "node3", "created_at": "0001-01-01T00:00:00Z"}
    gap |= {"last_used_at": "0001-01-01T00:00:00Z"}
    answer = [gap]
    monkeypatch.setattr(gateway.connection, "get", lambda *_, **__: answer)
    monkeypatch.setattr(gateway.connection, "json", lambda *_, **__: {"metadata": answer})
    refused = r"could not list the instances now: node3 does not answer\.$"
    with pytest.raises(LxdUnavailable, match=refused):
        getattr(gateway, asked)()
    before = {**gap, "status": "Stopped", "config": {"user.a": "b"}, "devices": {}, "profiles": ["p"]}
    answer = [before]
    gateway.instances()
    answer = [gap]
    (found,) = getattr(gateway, asked)()
    instance = found if asked == "instances" else found.instance
    assert (instance.status, instance.config, instance.profiles) == ("Error", {"user.a": "b"}, ("p",))
    # Another instance of that name, on another member.
    answer = [{**gap, "location": "node2"}]
    with pytest.raises(LxdUnavailable, match="node2"):
        getattr(gateway, asked)()


def test_a_forbidden_socket_is_distinguished_from_one_that_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "unix.socket")
    assert said(LxdGateway(path)) == f"The server at {path} cannot be reached; is it running?"

    def connect(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lxd_sessions.UnixConnection, "connect", connect)
    assert said(LxdGateway(path)) == (
        f"The bot may not open the socket {path}; put its user into the group that owns it."
    )


@pytest.mark.parametrize(("folder", "name"), [("lxd", "LXD"), ("incus", "Incus"), ("other", "The server")])
def test_a_server_that_never_answered_is_named_after_its_socket(tmp_path: Path, folder: str, name: str) -> None:
    path = str(tmp_path / folder / "unix.socket")
    assert said(LxdGateway(path)) == f"{name} at {path} cannot be reached; is it running?"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        # LXD's wording, and Incus's for the same error.
        ("no available dqlite leader server found", LxdUnavailable),
        ("no available cowsql leader server found", LxdUnavailable),
        ("Missing event connection with target cluster member", LxdUnavailable),
        ("Instance 'x' already exists", AlreadyExists),
        ('Failed to create "instances" entry: UNIQUE constraint failed: instances.project_id', AlreadyExists),
        ("Failed creating instance record: Image not found", NotFound),
        ("Image not provided for instance creation", NotFound),
    ],
)
def test_a_refusal_is_recognised_in_the_wording_of_either_product(reason: str, kind: type[LxdError]) -> None:
    assert type(LxdGateway(NOWHERE).connection.refusal(reason, "make it")) is kind
