"""The way to who asked: answers are lines of JSON, and what comes in after the request is a word to go on."""

import json
import os
import select
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

HEARD = 10.0
"""Seconds that who asked has to take an answer: LXD may lose what a program that ends has just said."""


class Wire:
    """Two open files: one that is asked through, one that is answered through."""

    def __init__(self, asking: int, answering: int) -> None:
        self._asking = asking
        self._answering = answering

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Send one answer; what is no text (half a character, from a file's name) is replaced."""
        line = json.dumps(answer, ensure_ascii=False).encode(errors="replace") + b"\n"
        while line:
            line = line[os.write(self._answering, line) :]

    def goes_on(self, seconds: float) -> bool:
        """Wait for a word, so many seconds at most. False: none came, or who asked is gone."""
        return bool(select.select([self._asking], [], [], seconds)[0]) and bool(os.read(self._asking, 4096))

    def until_heard(self) -> None:
        """Wait until who asked needs no more."""
        with suppress(OSError):
            self.goes_on(HEARD)
