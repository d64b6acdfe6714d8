"""The way to who asked: answers are lines of JSON, and what comes in after the request is a word to go on."""

import json
import os
import select
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

PIECE = 1 << 20
"""Bytes that are read at once."""
HEARD = 10.0
"""Seconds that who asked has to take an answer: LXD may lose what a program that ends has just said."""


class Wire:
    """Two open files: one that is asked through, one that is answered through."""

    def __init__(self, asking: int, answering: int) -> None:
        self._asking = asking
        self._answering = answering

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Send one answer; what is no text (half a character, from a file's name) is replaced."""
        self.pass_on(json.dumps(answer, ensure_ascii=False).encode(errors="replace") + b"\n")

    def pass_on(self, line: bytes) -> None:
        """Send a line that is no answer; it brings its end."""
        left = memoryview(line)
        while left:
            left = left[os.write(self._answering, left) :]

    def lines(self, seconds: float) -> Iterator[bytes]:
        """Yield the lines that come in, for as long as the next one comes within so many seconds."""
        heard = bytearray()
        while select.select([self._asking], [], [], seconds)[0] and (piece := os.read(self._asking, PIECE)):
            searched = len(heard)
            heard += piece
            while (end := heard.find(b"\n", searched)) >= 0:
                yield bytes(heard[:end])
                del heard[: end + 1]
                searched = 0

    def goes_on(self, seconds: float) -> bool:
        """Wait for a word, so many seconds at most. False: none came, or who asked is gone."""
        return bool(select.select([self._asking], [], [], seconds)[0]) and bool(os.read(self._asking, 4096))

    def until_heard(self) -> None:
        """Wait until who asked needs no more."""
        with suppress(OSError):
            self.goes_on(HEARD)
