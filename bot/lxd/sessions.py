"""HTTP sessions and plain connections to an LXD server: over its Unix socket, or over TCP with certificates."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection
from pylxd.client import LXDSSLAdapter

from bot.lxd.protocol import LxdUnavailable

CUT = 20
"""Seconds of silence from the other kernel after which the network counts as cut; an answer itself may take far longer.
"""
_UNIX = "http+unix://lxd"


def open_session(
    endpoint: str, certificate: tuple[str, str] | None, server_certificate: str | None
) -> tuple[str, requests.Session]:
    """Return the endpoint in the form that pylxd takes, and a session for it.

    Raises OSError or LxdUnavailable for bad certificates.
    """
    session = requests.Session()
    # Otherwise REQUESTS_CA_BUNDLE and proxies from the environment win over the pinned certificate.
    session.trust_env = False
    if endpoint.startswith("/"):
        session.mount(_UNIX, _UnixAdapter(endpoint))
        return _UNIX, session
    _try_certificates(certificate, server_certificate)
    session.cert = certificate
    session.verify = server_certificate or True
    session.mount("https://", (PinnedAdapter if server_certificate else TcpAdapter)(pool_maxsize=32))
    return endpoint, session


def connect(
    endpoint: str, certificate: tuple[str, str] | None, server_certificate: str | None, timeout: float
) -> socket.socket:
    """Return a connected socket to a server, with TLS unless it is the server's Unix socket.

    Raises OSError; as ssl.SSLError where the server's certificate is not the pinned one.
    """
    if endpoint.startswith("/"):
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local.settimeout(timeout)
        local.connect(endpoint)
        return local
    context = ssl.create_default_context()
    if server_certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(*certificate)
    where = urlsplit(endpoint)
    plain = socket.create_connection((where.hostname or "", where.port or 443), timeout)
    secure = context.wrap_socket(plain, server_hostname=where.hostname)
    if server_certificate:
        pinned = ssl.PEM_cert_to_DER_cert(Path(server_certificate).read_text())
        if secure.getpeercert(binary_form=True) != pinned:
            secure.close()
            raise ssl.SSLError("another fingerprint")
    return secure


def _try_certificates(client: tuple[str, str] | None, server: str | None) -> None:
    """Raise OSError with the file's name, or LxdUnavailable, for files that cannot be used.

    The errors that bad files cause later do not name them.
    """
    files = [*(client or ()), *([server] if server else ())]
    for file in files:
        Path(file).read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if client:
            # Without this, OpenSSL would ask for the password of an encrypted key at the terminal.
            context.load_cert_chain(*client, password="")
        if server:
            context.load_verify_locations(server)
    except ssl.SSLError as error:
        raise LxdUnavailable(
            f"The bot cannot use {', '.join(files)}: certificates in PEM form are needed, and a key without a password."
        ) from error


class TcpAdapter(requests.adapters.HTTPAdapter):
    """Gives up a connection when the other machine's kernel is silent; LXD itself may take its time.

    Without this, a request on a cut network waits for as long as the answer could have taken: minutes in which a tenant
    that is being moved stays closed.
    """

    OPTIONS = (
        *urllib3.connection.HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, CUT // 4),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, CUT // 4),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CUT * 1000),
    )

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, socket_options=self.OPTIONS, **named)


class PinnedAdapter(TcpAdapter, LXDSSLAdapter):  # type: ignore[misc]
    """A `TcpAdapter` for a server that is trusted by its own certificate."""


class UnixConnection(urllib3.connection.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixPool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=32)
        self._path = path

    def _new_conn(self) -> UnixConnection:
        return UnixConnection(self._path)


class _UnixAdapter(requests.adapters.HTTPAdapter):
    """Keeps one connection pool for a Unix socket. pylxd's own adapter keeps 25, one for each requested URL, and closes
    the oldest while another thread uses it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _UnixPool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> _UnixPool:
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return request.path_url

    def close(self) -> None:
        self._pool.close()
