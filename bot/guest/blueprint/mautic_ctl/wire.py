"""The connection to the bot: sends answers as lines of JSON, and receives what the bot sends after its request."""

import json
import os
import select
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

PIECE = 1 << 20
"""Bytes per read at most."""
HEARD = 10.0
"""Seconds to wait until the bot has received an answer: LXD may lose the last output of a program that ends."""


class Wire:
    """Two open file descriptors: one to receive from the bot, one to send to it."""

    def __init__(self, asking: int, answering: int) -> None:
        self._asking = asking
        self._answering = answering

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Send one answer; what cannot be encoded (half a character, from a file's name) is replaced."""
        self.pass_on(json.dumps(answer, ensure_ascii=False).encode(errors="replace") + b"\n")

    def pass_on(self, line: bytes) -> None:
        """Send a raw line, which must end with its own newline."""
        left = memoryview(line)
        while left:
            left = left[os.write(self._answering, left) :]

    def lines(self, seconds: float) -> Iterator[bytes]:
        """Yield received lines, without their newlines, until no data arrives for `seconds` or the bot disconnects."""
        heard = bytearray()
        while select.select([self._asking], [], [], seconds)[0] and (piece := os.read(self._asking, PIECE)):
            searched = len(heard)
            heard += piece
            while (end := heard.find(b"\n", searched)) >= 0:
                yield bytes(heard[:end])
                del heard[: end + 1]
                searched = 0

    def goes_on(self, seconds: float) -> bool:
        """Wait at most `seconds` for the bot to send something; return False if nothing came or the bot is gone."""
        return bool(select.select([self._asking], [], [], seconds)[0]) and bool(os.read(self._asking, 4096))

    def until_heard(self) -> None:
        """Wait until the bot has received the answer, HEARD seconds at most."""
        with suppress(OSError):
            self.goes_on(HEARD)
