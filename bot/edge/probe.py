"""A look at a page through an edge, as a client would: its port, its name, its certificate."""

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
"""How long the login page may take, to its last byte."""
MOST = 1 << 20
"""Bytes of a login page; Mautic's own has some twenty thousand."""


@dataclass(frozen=True)
class Probe:
    """One look at a login page through the edge. `status` is 0 where there was no answer, and `error` says why.

    The certificate is valid from and until then, in epoch seconds.
    """

    status: int
    login: bool
    seconds: float = 0.0
    double: bool = False
    error: str = ""
    valid_from: float = 0.0
    valid_until: float = 0.0


class _Read:
    """What http.client reads an answer of that is there as a whole."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._content)


def read_page(content: bytes) -> tuple[int, str, bytes]:
    """Return status, the double's mark and body of an answer over HTTP; what is cut short counts as far as it goes.

    Raises HTTPException for what is none.
    """
    answer = http.client.HTTPResponse(cast(socket.socket, _Read(content)), method="GET")
    answer.begin()
    try:
        body = answer.read()
    except http.client.IncompleteRead as cut:
        body = cut.partial
    return answer.status, answer.getheader("X-Mautic-Double", ""), body


class Pages:
    """Login pages, looked at through one edge. Safe for many threads.

    Args:
        address: where the edge is reached from here.
        authority: returns the certificate (PEM) of the edge's own authority, or None where it has public ones.
    """

    def __init__(self, address: str, port: int, authority: Callable[[], str | None]) -> None:
        self._address = address
        self._port = port
        self._authority = authority
        self._trust: ssl.SSLContext | None = None

    def distrust(self) -> None:
        """Ask for the edge's authority anew at the next look."""
        self._trust = None

    def probe(self, domain: str, seconds: float = PAGE_SECONDS) -> Probe:
        """Ask for a domain's login page, and judge what comes.

        It has so many seconds until it is there as a whole, and is read up to MOST bytes: a tenant serves what it will.
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
        """Return what comes, with its headers; why that is not all ("" when it is); and the certificate's times."""
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
            # Each call has what is left of the time, as a whole.
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
