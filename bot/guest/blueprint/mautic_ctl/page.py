"""The login page, asked for from inside."""

import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import IDENTITY, CtlError, await_database, read_json

INSIDE_SOCKET = Path("/run/nginx-inside.sock")
MOST = 1 << 20


def login_page(domain: str, patience: float = 30) -> tuple[int, bool, float]:
    """Ask for the login page by the inside socket; return (status, it is a login page, seconds).

    Raises TimeoutError when it is not whole within `patience` seconds. Of one without end the first MOST bytes count.
    """
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(str(INSIDE_SOCKET))
        connection.sendall(
            f"GET /s/login HTTP/1.0\r\nHost: {domain}\r\nUser-Agent: mautic-ctl\r\n"
            "X-Forwarded-Proto: https\r\n\r\n".encode()
        )
        answer = b""
        while len(answer) < MOST and (part := connection.recv(65536)):
            answer += part
            connection.settimeout(max(0.001, began + patience - time.monotonic()))
    status = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return int(status[1]) if status else 0, b'name="_username"' in answer, time.monotonic() - began


def wait_for_page(request: Mapping[str, Any]) -> dict[str, Any]:
    """Wait until the login page is there inside, sealed or not; raises CtlError after so many seconds."""
    domain = read_json(IDENTITY).get("domain", "localhost")
    began = time.monotonic()
    # Mautic writes an error into its log for each request that finds no database, and so many are a finding for a day.
    await_database(request["seconds"])
    while True:
        try:
            status, is_login, _ = login_page(domain)
        except OSError:
            status, is_login = 0, False
        took = time.monotonic() - began
        if is_login:
            return {"seconds": took}
        if took > request["seconds"]:
            raise CtlError(f"the login page is not there after {took:.0f} s (HTTP {status})")
        time.sleep(0.02)
