"""Measures and marks what differs between two pictures, with Pillow, in a process of its own (`photographer.py`)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

TOLERANCE = 8
"""How far a colour value, of 255, may lie outside the range of its surroundings in the other picture."""
SCALE = 0.5
"""The scale at which pictures are shown."""
GAP, TITLE = 16, 34
PAPER, INK, MARK = (255, 255, 255), (29, 28, 29), (209, 41, 61)
LARGEST = 4096 * 4096
"""The most pixels of a picture that is accepted."""


@dataclass(frozen=True)
class Pair:
    """One view of a page before and after the change, as PNGs."""

    before: bytes
    after: bytes


def differ(before: bytes, after: bytes) -> float:
    """Return the share of pixels, 0 to 1, that differ between two PNGs; an area that only one of them has differs.

    A pixel differs where its colour is outside the range of the pixels around it in the other picture, in either
    direction. So edges that are smoothed a little differently, or are moved by a pixel, do not differ.
    """
    marked = _marked(_opened(before), _opened(after))
    share: float = marked.histogram()[255] / (marked.width * marked.height)
    return share


def side_by_side(pairs: list[Pair]) -> tuple[float, bytes]:
    """Draw the views of a page side by side (before, after, differences) at half size, as one PNG.

    Returns the share of all pixels that differ, 0 to 1, and the PNG. Raises ValueError for a picture that is too large.
    """
    rows = [(_opened(pair.before), _opened(pair.after)) for pair in pairs]
    columns: list[list[Any]] = [[], [], []]
    changed = total = 0
    for before, after in rows:
        marked = _marked(before, after)
        changed, total = changed + marked.histogram()[255], total + marked.width * marked.height
        for column, picture in zip(columns, (before, after, _shown(after, marked)), strict=True):
            column.append(_half(picture))
    wide = [sum(picture.width + GAP for picture in column) for column in columns]
    tall = max(picture.height for column in columns for picture in column)
    sheet = Image.new("RGB", (sum(wide) + GAP, TITLE + tall + GAP), (226, 226, 230))
    pen = ImageDraw.Draw(sheet)
    left = GAP
    for title, column in zip(("Before", "After", f"Differs: {changed / total:.1%}"), columns, strict=True):
        pen.text((left, 6), title, fill=INK, font=ImageFont.load_default(20))
        for picture in column:
            sheet.paste(picture, (left, TITLE))
            left += picture.width + GAP
    return changed / total, _png(sheet)


def prepare() -> None:
    """Load everything that Pillow loads at its first use, while the process may still read it."""
    white, black = (_png(Image.new("RGB", (8, 8), colour)) for colour in ("white", "black"))
    side_by_side([Pair(white, black)])


def _opened(picture: bytes) -> Any:
    opened = Image.open(io.BytesIO(picture), formats=["PNG"])
    if opened.width * opened.height > LARGEST:
        raise ValueError("a picture is too large")
    return opened.convert("RGB")


def _marked(before: Any, after: Any) -> Any:
    """Return a picture, as large as both together need, with 255 where the two differ, and 0 elsewhere."""
    width, height = max(before.width, after.width), max(before.height, after.height)
    shared = min(before.width, after.width), min(before.height, after.height)
    marked = Image.new("L", (width, height), 255)
    one, other = before.crop((0, 0, *shared)), after.crop((0, 0, *shared))
    beyond = ImageChops.lighter(_beyond(one, other), _beyond(other, one))
    red, green, blue = beyond.split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    marked.paste(most.point([255 if value > TOLERANCE else 0 for value in range(256)]), (0, 0))
    return marked


def _beyond(picture: Any, other: Any) -> Any:
    """Return how far each colour lies outside the range of its surroundings in the other picture."""
    lightest, darkest = other.filter(ImageFilter.MaxFilter(3)), other.filter(ImageFilter.MinFilter(3))
    return ImageChops.lighter(ImageChops.subtract(picture, lightest), ImageChops.subtract(darkest, picture))


def _shown(after: Any, marked: Any) -> Any:
    """Return the later picture, faded, with differences in red, thick enough to be visible at half size."""
    faint = Image.new("RGB", marked.size, PAPER)
    faint.paste(Image.blend(after, Image.new("RGB", after.size, PAPER), 0.75), (0, 0))
    faint.paste(MARK, (0, 0), marked.filter(ImageFilter.MaxFilter(5)))
    return faint


def _half(picture: Any) -> Any:
    return picture.resize((max(1, int(picture.width * SCALE)), max(1, int(picture.height * SCALE))))


def _png(picture: Any) -> bytes:
    made = io.BytesIO()
    picture.save(made, "PNG", optimize=True)
    return made.getvalue()
