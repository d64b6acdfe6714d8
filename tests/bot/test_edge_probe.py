"""Probing a login page: whatever the server sends, the probe is bounded in bytes and in time."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bot.edge.probe import MOST, Pages
from tests.support.certificates import self_signed

DOMAIN = "client-x.agency.com"
LOGIN = b'<input name="_username">'


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for DOMAIN, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"), DOMAIN, domain=DOMAIN)


@contextmanager
def serving(
    identity: tuple[Path, Path], serve: Callable[[socket.socket], None], *, tls: bool = True
) -> Iterator[Pages]:
    """Yield the Pages of an edge at whose port `serve` serves one client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            plain, _ = listener.accept()
            with plain, suppress(OSError):
                if not tls:
                    serve(plain)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*identity)
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(4096)
                    serve(secure)

        thread = threading.Thread(target=run)
        thread.start()
        yield Pages("127.0.0.1", listener.getsockname()[1], identity[0].read_text)
        thread.join()


def dripping(first: bytes) -> Callable[[socket.socket], None]:
    """Return a function that serves `first`, and then a byte every 0.1 seconds for ever."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(b"x")
            threading.Event().wait(0.1)

    return serve


def page(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(head + body)


def test_a_login_page_is_recognised_plain_or_chunked(identity: tuple[Path, Path]) -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (LOGIN[:9], LOGIN[9:])) + b"0\r\n\r\n"
    for serve in (page(LOGIN), page(chunked, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")):
        with serving(identity, serve) as pages:
            found = pages.probe(DOMAIN)
        assert (found.status, found.login, found.error) == (200, True, "")
        assert found.valid_from < found.valid_until


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + LOGIN, 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + LOGIN, 200),
        (b"HTTP/1.1 200 OK\r\nX: ", 200),
        (b"", 0),
    ],
)
def test_a_page_that_drips_is_given_up_at_the_deadline(identity: tuple[Path, Path], first: bytes, status: int) -> None:
    """With a timeout per byte such a page never timed out, and four of them stopped all workers for good."""
    with serving(identity, dripping(first)) as pages:
        found = pages.probe(DOMAIN, 1)
    assert found.login is False
    assert (found.status, found.error) == (status, "a page that is not whole within 1 s")
    assert found.valid_until > 0, "the edge itself answers, whatever its tenant does"


def test_a_handshake_that_drips_is_given_up_too(identity: tuple[Path, Path]) -> None:
    with serving(identity, dripping(b"\x16\x03\x03\x40"), tls=False) as pages:
        found = pages.probe(DOMAIN, 1)
    assert (found.status, found.login) == (0, False)


def test_an_endless_page_is_read_only_up_to_the_limit(identity: tuple[Path, Path]) -> None:
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + LOGIN)
        while True:
            sent += connection.send(b"x" * 65_536)

    with serving(identity, serve) as pages:
        found = pages.probe(DOMAIN)
    assert (found.status, found.login, found.error) == (200, False, "a page of more than 1 MiB")
    assert sent < 16 * MOST


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 999]
)
def test_a_malformed_answer_is_no_login_page(identity: tuple[Path, Path], answer: bytes) -> None:
    with serving(identity, page(answer, b"")) as pages:
        assert pages.probe(DOMAIN, 5).login is False
