"""Loading a configuration into Caddy: the program that runs in an edge runs here, beside a fake Caddy."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from bot.edge.load import load
from bot.lxd.protocol import Lxd, LxdError

TAKEN = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
REFUSED = b'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{"error":"loading config:\n no such module"}\n'


class Talking:
    """A conversation with a program on this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def send(self, content: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(content)
        self._process.stdin.flush()

    def line(self) -> bytes:
        assert self._process.stdout
        return self._process.stdout.readline().removesuffix(b"\n")


class Here:
    """Runs on this machine what runs in an edge, with the edge's files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.admin, self.config = folder / "admin.sock", folder / "edge.json"
        self.is_full = False

    @contextmanager
    def talk(self, _name: str, command: list[str], **_: Any) -> Iterator[Talking]:
        words = [*command[:3], str(self.admin), str(self.config), *command[5:]]
        if self.is_full:
            # Python ignores the signal for a file that may not grow, and `restore_signals=False` passes that on.
            words = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *words]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, restore_signals=False) as process:
            yield Talking(process)


class Caddy:
    """A Caddy that answers every request alike; `asked`: the requests so far."""

    def __init__(self, place: Path, answer: bytes) -> None:
        self.asked: list[bytes] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(place))
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as heard:
                head = b"".join(iter(heard.readline, b"\r\n"))
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.asked.append(head.partition(b"\r\n")[0] + b" " + heard.read(length))
                connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@contextmanager
def edge(folder: Path, answer: bytes = TAKEN) -> Iterator[tuple[Here, Caddy]]:
    here = Here(folder)
    caddy = Caddy(here.admin, answer)
    yield here, caddy
    caddy.close()


def put(here: Here, config: str, **given: Any) -> None:
    load(cast(Lxd, here), "edge", config, **given)


def test_a_new_configuration_is_loaded_and_stored_for_a_restart(tmp_path: Path) -> None:
    long = '{"a": "ü"}' * 100_000
    with edge(tmp_path) as (here, caddy):
        for config in ("{}", long):
            put(here, config)
            assert here.config.read_text() == config
    assert caddy.asked == [b"POST /load HTTP/1.1 {}", b"POST /load HTTP/1.1 " + long.encode()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["admin.sock", "edge.json"]
    assert here.config.stat().st_mode & 0o777 == 0o644


def test_an_unchanged_configuration_is_not_loaded(tmp_path: Path) -> None:
    with edge(tmp_path) as (here, caddy):
        here.config.write_text("{}")
        before = here.config.stat()
        put(here, "{}")
    assert caddy.asked == []
    assert here.config.stat() == before


def test_a_configuration_that_caddy_refuses_is_not_stored_and_the_reason_is_raised(tmp_path: Path) -> None:
    with edge(tmp_path, REFUSED) as (here, _):
        here.config.write_text("{}")
        with pytest.raises(LxdError, match=r"Inside `edge`: Caddy refused it \(400\): .*no such module"):
            put(here, '{"other": 1}')
    assert here.config.read_text() == "{}"


def test_on_a_full_disk_a_configuration_is_loaded_and_stored_once_there_is_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with edge(tmp_path) as (here, caddy):
        put(here, '{"old": 1}')
        here.is_full = True
        put(here, '{"new": 1}')
        assert "serves, and a restart of it would go by older routes" in caplog.text
        assert here.config.read_text() == '{"old": 1}'
        assert not (tmp_path / ".next.json").exists()
        here.is_full = False
        put(here, '{"new": 1}')
    assert [asked[-10:] for asked in caddy.asked] == [b'{"old": 1}', b'{"new": 1}', b'{"new": 1}']
    assert here.config.read_text() == '{"new": 1}'


def test_the_stored_configuration_is_loaded_again_if_caddy_loaded_another_since(tmp_path: Path) -> None:
    with edge(tmp_path) as (here, caddy):
        put(here, '{"old": 1}')
        here.is_full = True
        put(here, '{"new": 1}')
        put(here, '{"old": 1}')
    assert [asked[-10:] for asked in caddy.asked] == [b'{"old": 1}', b'{"new": 1}', b'{"old": 1}']


def test_a_missing_caddy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LxdError, match="Inside `edge`: Caddy does not answer: No such file or directory"):
        put(Here(tmp_path), "{}")


@pytest.mark.parametrize("present", ["{}", ""])
def test_the_first_command_runs_even_if_nothing_is_loaded(tmp_path: Path, present: str) -> None:
    with edge(tmp_path) as (here, _):
        here.config.write_text(present)
        put(here, "{}", first=("touch", str(tmp_path / "done")))
    assert (tmp_path / "done").exists()


def test_nothing_is_loaded_if_the_first_command_fails(tmp_path: Path) -> None:
    with edge(tmp_path) as (here, caddy), pytest.raises(LxdError, match="false failed"):
        put(here, "{}", first=("false",))
    assert caddy.asked == []
