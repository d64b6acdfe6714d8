"""The digest's chart: what it shows, that a separate process draws it, and how a failure is reported."""

from __future__ import annotations

import struct
import subprocess
import sys
from itertools import pairwise

import pytest

from bot.reports.chart import BARS, LINES, Bar, CannotDraw, Chart, Line, apart, chart, described, png

NOW = 1_800_000_000.0


def line(name: str, *shares: float) -> Line:
    days = len(shares)
    return Line(name, tuple((NOW - 86_400 * (days - day), share) for day, share in enumerate(shares)))


POOLS = [line("local", 0.3, 0.4), line("lab", 0.5, 0.52)]
TENANTS = [Bar("client-x", 0.93, "28 of 30 GB · 4 days"), Bar("client-y", 1.2, "36 of 30 GB")]


def size(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


@pytest.mark.parametrize(
    ("lines", "bars"), [(POOLS, TENANTS), (POOLS, []), ([], TENANTS), ([line("a-very-long-name-of-a-host", 1, 1)], [])]
)
def test_a_chart_has_the_width_for_a_phone(lines: list[Line], bars: list[Bar]) -> None:
    wanted = chart(lines, bars, "Europe/Berlin")
    assert wanted
    width, height = size(png(wanted))
    assert width == 1200
    assert height == pytest.approx(240 * (3 * bool(lines) + (0.8 + 0.62 * len(bars)) * bool(bars)), abs=1)


def test_the_fullest_pools_and_the_tenants_closest_to_a_limit_are_drawn() -> None:
    pools = [line(f"host{number}", 0.1, number / 10) for number in range(9)]
    tenants = [Bar(f"client{number}", number / 10, "") for number in range(9)]
    wanted = chart(pools, tenants, "UTC")
    assert wanted
    assert [one.name for one in wanted.lines] == [f"host{8 - number}" for number in range(LINES)]
    assert [one.name for one in wanted.bars] == [f"client{8 - number}" for number in range(BARS)]


def test_a_chart_has_a_text_description() -> None:
    wanted = chart([line("node1", 0.1, 0.24), line("node2", 0.5, 0.06)], [Bar("fjord", 0.92, "disk 92%")], "UTC")
    assert wanted
    assert described(wanted) == "Storage: node1 24%, node2 6%. Closest to limit: fjord, disk 92%."
    alone = chart([], [Bar("fjord", 0.92, "disk 92%")], "UTC")
    assert alone
    assert described(alone) == "Closest to limit: fjord, disk 92%."


def test_without_data_there_is_no_chart() -> None:
    assert chart([], [], "UTC") is None
    assert chart([line("new", 0.4)], [], "UTC") is None, "one measurement is no history"


def test_labels_do_not_touch_and_do_not_leave_the_picture() -> None:
    assert apart([0.9, 0.5, 0.1]) == [0.9, 0.5, 0.1]
    for ends in ([0.99, 0.98, 0.97, 0.96], [0.03, 0.02, 0.01, 0.0], [0.6, 0.57], [2.0]):
        placed = apart(ends)
        assert max(placed) <= 1
        assert min(placed) >= 0
        assert all(upper - lower >= 0.139 for upper, lower in pairwise(placed))


def test_a_chart_that_cannot_be_drawn_says_why() -> None:
    wanted = Chart(tuple(POOLS), (), "Nowhere/Else")
    with pytest.raises(CannotDraw, match="No time zone found with key Nowhere/Else"):
        png(wanted)
    with pytest.raises(CannotDraw, match="more than 0 s"):
        png(wanted, deadline=0.001)


def test_the_bot_itself_never_loads_the_plotting_library() -> None:
    program = (
        "import sys, bot.program; from tests.bot.test_chart import *; assert png(chart(POOLS, TENANTS, 'UTC'));"
        "assert not [name for name in ('matplotlib', 'numpy') if sys.modules.get(name)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
