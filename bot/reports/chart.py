"""Draws the digest's chart: how full each storage pool is, and the tenants closest to their plan limit.

matplotlib draws it in a process of its own (`python -m bot.reports.chart`, JSON in, PNG out). So it costs the bot no
memory between charts, and threads do not share its globals.
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

DEADLINE = 30.0
"""Seconds that drawing may take."""
ALT = 1000
"""The most characters of the picture's text description."""
LINES, BARS = 4, 6
"""How many pools and tenants fit a phone's screen: the fullest pools, and the tenants closest to their limit."""
BLUE, RED, GREY, SOFT, TEXT = "#1264a3", "#d1293d", "#c9c9ce", "#696871", "#1d1c1d"
HUES = (BLUE, "#b26a00", "#007a5a", "#7b3fa0")
WIDTH, POOLS, MARGIN, ABOVE, BELOW = 5.0, 2.75, 0.15, 0.5, 0.3
"""Inches: the picture's width, the width of the pools' lines, the side margins, the space above a panel for its title,
and the space below a panel."""


class CannotDraw(Exception):
    """The chart could not be drawn; the text says why."""


@dataclass(frozen=True)
class Line:
    """The history of a pool: points of (epoch seconds, used share from 0 to 1), oldest first."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Bar:
    """The share of its plan that a tenant uses, with a short text. `high`: nearly full by the settings, drawn red."""

    name: str
    share: float
    words: str
    high: bool = False


@dataclass(frozen=True)
class Chart:
    """The content of a chart."""

    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    timezone: str


def chart(lines: list[Line], bars: list[Bar], timezone: str) -> Chart | None:
    """Choose the pools and tenants to draw; return None when there is nothing to draw."""
    drawn = [line for line in lines if len(line.points) > 1]
    drawn.sort(key=lambda line: -line.points[-1][1])
    near = sorted(bars, key=lambda bar: -bar.share)
    if not drawn and not near:
        return None
    return Chart(tuple(drawn[:LINES]), tuple(near[:BARS]), timezone)


def described(wanted: Chart) -> str:
    """Return a text description of the chart, for people who cannot see it."""
    storage = ", ".join(f"{line.name} {line.points[-1][1]:.0%}" for line in wanted.lines)
    closest = ", ".join(f"{bar.name}, {bar.words}" for bar in wanted.bars)
    told = [f"Storage: {storage}." if storage else "", f"Closest to limit: {closest}." if closest else ""]
    return " ".join(filter(None, told))[:ALT]


def png(wanted: Chart, deadline: float = DEADLINE) -> bytes:
    """Draw a chart as PNG in a process of its own; raise CannotDraw if that fails, or takes over `deadline` seconds."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotDraw("matplotlib is not installed. Run `make .venv`.")
    command = [sys.executable, "-m", "bot.reports.chart"]
    try:
        made = subprocess.run(
            command, input=msgspec.json.encode(wanted), capture_output=True, timeout=deadline, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CannotDraw(f"Drawing took more than {deadline:.0f} s.") from error
    if made.returncode:
        last = made.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CannotDraw(f"Drawing failed: {last[:200] or made.returncode}.")
    return made.stdout


def draw(wanted: Chart) -> bytes:
    """Draw a PNG that is 1200 pixels wide, with letters that are readable on a phone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # (height, width, drawing function) of each panel, in inches.
    panels: list[tuple[float, float, Any]] = []
    if wanted.lines:
        panels.append((2.2, POOLS, lambda axes: _pools(axes, wanted.lines, ZoneInfo(wanted.timezone))))
    if wanted.bars:
        panels.append((0.62 * len(wanted.bars), WIDTH - 2 * MARGIN, lambda axes: _tenants(axes, wanted.bars)))
    height = sum(tall for tall, _, _ in panels) + len(panels) * (ABOVE + BELOW)
    with rc_context({"font.size": 14, "text.color": TEXT}):
        figure = Figure(figsize=(WIDTH, height), dpi=240)
        top = height
        for tall, wide, fill in panels:
            low = top - ABOVE - tall
            axes = figure.add_axes((MARGIN / WIDTH, low / height, wide / WIDTH, tall / height))
            axes.spines[:].set_visible(False)
            axes.set_yticks([])
            fill(axes)
            top = low - BELOW
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture)  # type: ignore[no-untyped-call]
    return picture.getvalue()


def _title(axes: Any, words: str) -> None:
    axes.set_title(words, loc="left", fontweight="bold", fontsize=15, pad=9)


def _pools(axes: Any, lines: tuple[Line, ...], zone: ZoneInfo) -> None:
    """Draw the history of each pool as a line with its name at the end; the names do not overlap."""
    _title(axes, "Storage used per host")
    first = min(line.points[0][0] for line in lines)
    last = max(line.points[-1][0] for line in lines)
    length = max(last - first, 3600.0)
    for share in (0, 0.5, 1):
        axes.axhline(share, color=GREY, linewidth=1, zorder=0)
    for share in (0.5, 1):
        axes.text(first, share - 0.015, f"{share:.0%}", color=SOFT, fontsize=12, va="top")
    ends = [line.points[-1][1] for line in lines]
    for line, end, at, hue in zip(lines, ends, apart(ends), HUES, strict=False):
        words = f"{_short(line.name, 11)} {end:.0%}"
        axes.plot(*zip(*line.points, strict=True), color=hue, linewidth=3, solid_capstyle="round", clip_on=False)
        axes.text(last + length * 0.04, at, words, color=hue, fontweight="bold", va="center")
    axes.set_xlim(first, last)
    axes.set_ylim(0, 1.02)
    axes.tick_params(length=0, labelcolor=SOFT, labelsize=12)
    days = "%-d %b" if length > 2 * 86_400 else "%-d %b %H:%M"
    axes.set_xticks([first, last], [datetime.fromtimestamp(end, zone).strftime(days) for end in (first, last)])
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)


def apart(ends: list[float]) -> list[float]:
    """Return positions for labels that must not touch, as close to `ends` (shares, highest first) as space allows."""
    room, lowest, highest = 0.14, -1.0, 1.0
    raised: list[float] = []
    for end in reversed(ends):
        lowest = max(end, lowest + room)
        raised.insert(0, lowest)
    placed = []
    for at in raised:
        placed.append(min(at, highest))
        highest = placed[-1] - room
    return placed


def _tenants(axes: Any, bars: tuple[Bar, ...]) -> None:
    """Draw a bar for each tenant, below its name and text."""
    _title(axes, "Closest to their plan limit")
    rows = range(len(bars))
    axes.barh(rows, [1.0] * len(bars), height=0.22, color="#ececef")
    hues = [RED if bar.high else BLUE for bar in bars]
    axes.barh(rows, [min(bar.share, 1.0) for bar in bars], height=0.22, color=hues)
    for row, bar in zip(rows, bars, strict=True):
        axes.text(0, row - 0.18, _short(bar.name, 18), fontweight="bold", va="bottom")
        axes.text(1, row - 0.18, bar.words, va="bottom", ha="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(bars) - 0.75, -0.75)
    axes.set_xticks([])


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


if __name__ == "__main__":
    sys.stdout.buffer.write(draw(msgspec.json.decode(sys.stdin.buffer.read(), type=Chart)))
