"""Requests the login page over the inside socket."""

import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .database import await_database
from .system import IDENTITY, CtlError, read_json

INSIDE_SOCKET = Path("/run/nginx-inside.sock")
MOST = 1 << 20
LOGIN = "/s/login"
LINK = re.compile(
    r"""<(?:link|script)\b[^>]{0,500}?\b(?:href|src)=["'](/(?!/)[\w.~/-]{1,200}\.(?:css|js)(?:\?[\w.=&-]{0,99})?)["']"""
)
ASSETS = 40
"""Links of a page that are requested at most."""


def login_page(domain: str, patience: float = 30) -> tuple[int, bool, float]:
    """Request the login page over the inside socket; return (status, whether it is a login page, seconds).

    Raises TimeoutError when the page is not complete within `patience` seconds. Reads no more than about MOST bytes.
    """
    began = time.monotonic()
    status, answer = _get(domain, LOGIN, patience)
    return status, b'name="_username"' in answer, time.monotonic() - began


def _get(domain: str, path: str, patience: float) -> tuple[int, bytes]:
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(str(INSIDE_SOCKET))
        connection.sendall(
            f"GET {path} HTTP/1.0\r\nHost: {domain}\r\nUser-Agent: mautic-ctl\r\n"
            "X-Forwarded-Proto: https\r\n\r\n".encode()
        )
        answer = b""
        while len(answer) < MOST and (part := connection.recv(65536)):
            answer += part
            connection.settimeout(max(0.001, began + patience - time.monotonic()))
    status = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return int(status[1]) if status else 0, answer


def assets(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Request the login page and every script and style sheet that it links to on the same host.

    Returns {assets: {path without query: {status, bytes (headers included), seconds}}}.
    """
    domain = read_json(IDENTITY).get("domain", "localhost")
    found: dict[str, dict[str, Any]] = {}

    def ask(path: str) -> bytes:
        began = time.monotonic()
        try:
            status, answer = _get(domain, path, 30)
        except OSError:
            status, answer = 0, b""
        seconds = round(time.monotonic() - began, 3)
        found[path.partition("?")[0]] = {"status": status, "bytes": len(answer), "seconds": seconds}
        return answer

    for link in LINK.findall(ask(LOGIN).decode(errors="replace"))[:ASSETS]:
        ask(link)
    return {"assets": found}


def wait_for_page(request: Mapping[str, Any]) -> dict[str, Any]:
    """Wait until the inside socket serves the login page, closed or not. Raises CtlError after `seconds`."""
    domain = read_json(IDENTITY).get("domain", "localhost")
    began = time.monotonic()
    # Mautic logs an error for each request that finds no database, and so many errors would be a finding for a day.
    await_database(request["seconds"])
    await_login_page(domain, request["seconds"] - (time.monotonic() - began))
    return {"seconds": time.monotonic() - began}


def await_login_page(domain: str, seconds: float) -> None:
    """Request the login page until it answers. Raises CtlError after `seconds`."""
    began = time.monotonic()
    while True:
        try:
            status, is_login, _ = login_page(domain, min(30, max(5, seconds)))
        except OSError:
            status, is_login = 0, False
        if is_login:
            return
        took = time.monotonic() - began
        if took > seconds:
            raise CtlError(f"the login page is not there after {took:.0f} s (HTTP {status})")
        time.sleep(0.02)
