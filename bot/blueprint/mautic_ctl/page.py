"""The login page, asked for from inside."""

import re
import socket
import time
from pathlib import Path

INSIDE_SOCKET = Path("/run/nginx-inside.sock")


def login_page(domain: str) -> tuple[int, bool, float]:
    """Ask for the login page by the inside socket; return (status, it is a login page, seconds)."""
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(INSIDE_SOCKET))
        connection.sendall(
            f"GET /s/login HTTP/1.0\r\nHost: {domain}\r\nUser-Agent: mautic-ctl\r\n"
            "X-Forwarded-Proto: https\r\n\r\n".encode()
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    status = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return int(status[1]) if status else 0, b'name="_username"' in answer, time.monotonic() - began
