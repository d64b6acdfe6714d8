"""What anything that a tenant tells is made of: figures within bounds, texts that are cut and cleaned. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from bot.model.labels import EVER
from bot.model.words import tame

TEXT = 300
"""Characters of a sentence."""
LIST = 1000
"""Characters of what a check says, which may name all jobs."""
LONG = 60_000
"""Characters of a log, or of what a console command says."""
ENTRIES = 50
"""Services, queues, jobs, checks and kinds of each of which there are a handful."""
TABLES = 2000
"""Tables whose rows are counted; a form of a client's has one of its own. Packages of Debian, too."""
LINES = 8000
"""Lines of a list: what a database is made of."""

Figure = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Bytes, seconds or a count: what JSON, floating point and SQLite all keep exactly, and can sum."""
Moment = Annotated[int, Meta(ge=0, le=EVER)]
"""Epoch seconds of a day that a calendar knows (until the year 6325)."""
Seconds = Annotated[float, Meta(ge=0, le=2**53 - 1)]
Code = Annotated[int, Meta(ge=-255, le=255)]
"""How a program ended."""


class Untrusted(Struct):
    """Something that is told; its texts are cut and cleaned, its lists are cut."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            entries = TABLES if name in ("counts", "packages") else ENTRIES
            setattr(self, name, _tamed(getattr(self, name), LONG if name in ("text", "output") else TEXT, entries))


def _tamed(value: Any, most: int, entries: int) -> Any:
    if isinstance(value, str):
        return tame(value, most)
    if isinstance(value, dict):
        return {tame(key, TEXT): _tamed(found, most, entries) for key, found in list(value.items())[:entries]}
    if isinstance(value, list):
        return [_tamed(found, most, entries) for found in value[:LINES]]
    return value
