"""Parses the output of PHP's `serialize`, since a tenant has only Python's standard library."""

from typing import Any


class Object(dict[Any, Any]):
    """A PHP object: its properties by name, without the prefix that names a property's class."""

    name = ""


def unserialized(text: bytes) -> Any:
    """Return the value that PHP's `serialize` wrote. Raises ValueError, LookupError or RecursionError otherwise."""
    return _Php(text).value()


class _Php:
    """A parser for one serialised text."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self.seen: list[Any] = []
        """All values in order; later ones refer to them by number, counted from 1."""

    def value(self) -> Any:
        """Read the next value."""
        if self.text[self.at : self.at + 1] == b"R":
            return self._seen()
        place = len(self.seen)
        self.seen.append(None)
        if self.text[self.at : self.at + 1] in (b"a", b"O"):
            return self._filled(place)
        self.seen[place] = found = self._seen() if self.text[self.at : self.at + 1] == b"r" else self._scalar()
        return found

    def _filled(self, place: int) -> dict[Any, Any]:
        made = self.seen[place] = {} if self._taken(2) == b"a:" else Object()
        if isinstance(made, Object):
            made.name = self._string(b":")
        size = int(self._until(b":"))
        self._expect(b"{")
        for _ in range(size):
            key = self._scalar()
            made[key.rpartition("\0")[2] if isinstance(key, str) else key] = self.value()
        self._expect(b"}")
        return made

    def _seen(self) -> Any:
        self._taken(2)
        return self.seen[int(self._until(b";")) - 1]

    def _scalar(self) -> Any:
        kind = self._taken(2)
        if kind in (b"s:", b"E:"):
            return self._string(b";")
        if kind in (b"i:", b"b:"):
            return int(self._until(b";"))
        if kind == b"d:":
            return self._until(b";").decode()
        if kind != b"N;":
            raise ValueError("it is no value")
        return None

    def _string(self, end: bytes) -> str:
        size = int(self._until(b":"))
        self._expect(b'"')
        found = self._taken(size)
        self._expect(b'"' + end)
        return found.decode(errors="replace")

    def _until(self, end: bytes) -> bytes:
        start, self.at = self.at, self.text.index(end, self.at) + len(end)
        return self.text[start : self.at - len(end)]

    def _taken(self, size: int) -> bytes:
        if not 0 <= size <= len(self.text) - self.at:
            raise ValueError("it ends too early")
        self.at += size
        return self.text[self.at - size : self.at]

    def _expect(self, what: bytes) -> None:
        if self._taken(len(what)) != what:
            raise ValueError("it is not what it says")
