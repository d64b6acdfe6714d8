"""Requests a page through an edge as a client would, by its port, with the domain's name and certificate."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from bot.lxd.protocol import LxdError
from bot.model.words import tame

PAGE_SECONDS = 30.0
"""Seconds that the login page may take, to its last byte."""
MOST = 1 << 20
"""The most bytes of a login page that are read; Mautic's own has some twenty thousand."""


@dataclass(frozen=True)
class Probe:
    """The result of one request for a login page. `status` is 0 where there was no answer, and `error` says why.

    `login`: the answer is the login page; `double`: a stand-in for Mautic answered; `valid_from` and `valid_until`:
    the certificate's validity, in epoch seconds.
    """

    status: int
    login: bool
    seconds: float = 0.0
    double: bool = False
    error: str = ""
    valid_from: float = 0.0
    valid_until: float = 0.0


class _Read:
    """A stand-in for a socket, from which http.client parses an answer that is already complete."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._content)


def read_page(content: bytes) -> tuple[int, str, bytes]:
    """Return the status, the `X-Mautic-Double` header ("" if missing) and the body of an HTTP answer.

    A truncated body is returned as far as it goes. Raises HTTPException for content that is no HTTP answer.
    """
    answer = http.client.HTTPResponse(cast(socket.socket, _Read(content)), method="GET")
    answer.begin()
    try:
        body = answer.read()
    except http.client.IncompleteRead as cut:
        body = cut.partial
    return answer.status, answer.getheader("X-Mautic-Double", ""), body


class Pages:
    """Requests login pages through one edge. Thread-safe.

    Args:
        address: the address at which the bot reaches the edge.
        authority: returns the certificate (PEM) of the edge's own authority, or None where it uses public certificates.
    """

    def __init__(self, address: str, port: int, authority: Callable[[], str | None]) -> None:
        self._address = address
        self._port = port
        self._authority = authority
        self._trust: ssl.SSLContext | None = None

    def distrust(self) -> None:
        """Forget the edge's authority, so that the next probe reads it again."""
        self._trust = None

    def probe(self, domain: str, seconds: float = PAGE_SECONDS) -> Probe:
        """Request a domain's login page, and judge the answer.

        The whole page has to arrive within `seconds`, and is read up to MOST bytes: a tenant may serve anything.
        """
        began = time.monotonic()
        try:
            page, why, valid = self._get(domain, "/s/login", seconds)
        except (OSError, LxdError) as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                self.distrust()
            return Probe(0, False, time.monotonic() - began, error=_words(error))
        status, header, body = 0, "", b""
        try:
            status, header, body = read_page(page)
        except http.client.HTTPException as error:
            why = why or _words(error)
        login = status == 200 and not why and b'name="_username"' in body
        return Probe(status, login, time.monotonic() - began, bool(header), why, *valid)

    def _get(self, domain: str, path: str, seconds: float) -> tuple[bytes, str, tuple[float, float]]:
        """Return the answer with its headers; why it is incomplete, "" if it is not; and the certificate's validity."""
        end = time.monotonic() + seconds

        def left() -> float:
            found = end - time.monotonic()
            if found <= 0:
                raise TimeoutError(f"nothing came within {seconds:.0f} s")
            return found

        port = self._port
        host = domain if port == 443 else f"{domain}:{port}"
        asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mautic-ops\r\nConnection: close\r\n\r\n"
        page = bytearray()
        with socket.create_connection((self._address, port), timeout=left()) as plain:
            trust = self._trusting()
            # Each blocking call gets all of the remaining time.
            plain.settimeout(left())
            with trust.wrap_socket(plain, server_hostname=domain) as secure:
                certificate = secure.getpeercert() or {}
                begins, ends = (ssl.cert_time_to_seconds(str(certificate[end])) for end in ("notBefore", "notAfter"))
                valid = begins, ends
                try:
                    secure.settimeout(left())
                    secure.sendall(asked.encode())
                    while len(page) <= MOST:
                        secure.settimeout(left())
                        piece = secure.recv(1 << 16)
                        if not piece:
                            return bytes(page), "", valid
                        page += piece
                except TimeoutError:
                    return bytes(page), f"a page that is not whole within {seconds:.0f} s", valid
        return bytes(page), f"a page of more than {MOST >> 20} MiB", valid

    def _trusting(self) -> ssl.SSLContext:
        trust = self._trust
        if trust is None:
            trust = ssl.create_default_context()
            if authority := self._authority():
                trust.load_verify_locations(cadata=authority)
            self._trust = trust
        return trust


def _words(error: Exception) -> str:
    return tame(f"{type(error).__name__}: {error}", 200)
