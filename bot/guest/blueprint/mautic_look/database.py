"""A client for MariaDB's socket, with as much of the protocol as a few small queries need."""

import socket

SOCKET = "/run/mysqld/mysqld.sock"
USER, NAME = "www-data", "mautic"
SECONDS = 5.0
"""Seconds that an answer may take; MariaDB itself stops a statement after one second."""
_CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x8000 | 0x80000
"""Long passwords, connection with a database, protocol 4.1, secure connection, plugin names."""
_OK, _ERROR, _END, _NULL = 0x00, 0xFF, 0xFE, 0xFB
_COM_QUERY, _COM_STATISTICS = b"\x03", b"\x09"


class DatabaseAway(Exception):
    """MariaDB does not answer: it does not run, or is starting or stopping."""


class DatabaseRefused(Exception):
    """MariaDB answered with an error or an empty packet; `number` is MariaDB's error number, 0 if there is none."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(f"MariaDB's error {number}")
        self.number = number


class Database:
    """One connection, opened on first use and kept. There is no password, since the socket identifies the user."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._to: socket.socket | None = None
        self._heard = b""

    def rows(self, statement: str) -> list[list[str | None]]:
        """Return all rows of one SELECT. Raises DatabaseAway or DatabaseRefused."""
        return [_values(row) for row in self._asked(_COM_QUERY + statement.encode())]

    def questions(self) -> int:
        """Return how many statements MariaDB has received from all clients, without counting this request.

        This costs a tenth of any statement. Raises the same errors as `rows`.
        """
        (told,) = self._asked(_COM_STATISTICS)
        number = told.partition(b"Questions: ")[2].partition(b" ")[0]
        return int(number) if number.isdigit() else 0

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        if self._to:
            self._to.close()
        self._to, self._heard = None, b""

    def _asked(self, command: bytes) -> list[bytes]:
        kept = self._to is not None
        try:
            return self._tried(command)
        except OSError:
            self.close()
            if not kept:
                raise DatabaseAway from None
        # A kept connection may have ended meanwhile, for example because MariaDB was restarted.
        try:
            return self._tried(command)
        except OSError:
            self.close()
            raise DatabaseAway from None

    def _tried(self, command: bytes) -> list[bytes]:
        if self._to is None:
            self._connect()
            self._ask(_COM_QUERY + b"SET SESSION max_statement_time = 1, time_zone = '+00:00'")
        return self._ask(command)

    def _connect(self) -> None:
        self._to = socket.socket(socket.AF_UNIX)
        self._to.settimeout(SECONDS)
        self._to.connect(self._path)
        self._checked(self._packet()[1])
        # 0x2d is utf8mb4. The answer to the password challenge is empty: the socket authenticates the user.
        hello = _CAPABILITIES.to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + b"\x2d" + bytes(23)
        self._send(1, hello + f"{USER}\0".encode() + b"\0" + f"{NAME}\0mysql_native_password\0".encode())
        number, said = self._packet()
        if said[:1] == bytes([_END]):
            self._send(number + 1, b"")
            _, said = self._packet()
        self._checked(said)

    def _ask(self, command: bytes) -> list[bytes]:
        self._send(0, command)
        said = self._checked(self._packet()[1])
        if command == _COM_STATISTICS:
            return [said]
        if said[0] == _OK:
            return []
        # Skip the column definitions, which end like the rows.
        self._until_end()
        return self._until_end()

    def _until_end(self) -> list[bytes]:
        found: list[bytes] = []
        while True:
            said = self._checked(self._packet()[1])
            if said[0] == _END and len(said) < 9:
                return found
            found.append(said)

    def _send(self, number: int, content: bytes) -> None:
        if self._to is None:
            raise OSError("there is no connection")
        self._to.sendall(len(content).to_bytes(3, "little") + bytes([number & 255]) + content)

    def _packet(self) -> tuple[int, bytes]:
        head = self._take(4)
        return head[3], self._take(int.from_bytes(head[:3], "little"))

    def _take(self, size: int) -> bytes:
        while len(self._heard) < size:
            part = self._to.recv(65536) if self._to else b""
            if not part:
                raise OSError("the connection ended")
            self._heard += part
        taken, self._heard = self._heard[:size], self._heard[size:]
        return taken

    def _checked(self, said: bytes) -> bytes:
        if not said or said[0] == _ERROR:
            number = int.from_bytes(said[1:3], "little")
            self.close()
            raise DatabaseRefused(number)
        return said


def _values(row: bytes) -> list[str | None]:
    """Return the values of a row: each is NULL, or a length (one to nine bytes) and that many bytes of text."""
    values: list[str | None] = []
    at = 0
    while at < len(row):
        size = row[at]
        at += 1
        if size == _NULL:
            values.append(None)
            continue
        if size > _NULL:
            wide = {0xFC: 2, 0xFD: 3, 0xFE: 8}[size]
            size = int.from_bytes(row[at : at + wide], "little")
            at += wide
        values.append(row[at : at + size].decode(errors="replace"))
        at += size
    return values
