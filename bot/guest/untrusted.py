"""The building blocks of a tenant's answers: bounded figures, truncated and cleaned texts. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from bot.model.labels import EVER
from bot.model.words import tame

TEXT = 300
"""Characters of a sentence."""
LIST = 1000
"""Characters of a check's text, which may name all jobs."""
LONG = 60_000
"""Characters of a log, or of the output of a console command."""
ENTRIES = 50
"""Entries of a mapping by service, queue, job, check or kind, of each of which there are a handful."""
TABLES = 2000
"""Entries of a mapping by table, as each form of a client has a table of its own, or by Debian package."""
LINES = 8000
"""Entries of a list; the longest list is the schema of a database."""

Figure = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Bytes, seconds or a count, in the range that JSON, floating point and SQLite all store exactly, and can sum."""
Moment = Annotated[int, Meta(ge=0, le=EVER)]
"""Epoch seconds, up to a year that calendars can represent (6325)."""
Seconds = Annotated[float, Meta(ge=0, le=2**53 - 1)]
Code = Annotated[int, Meta(ge=-255, le=255)]
"""The exit code of a program."""


class Untrusted(Struct):
    """Base of everything that a tenant reports: its texts are truncated and cleaned, its lists truncated."""

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
