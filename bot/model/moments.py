"""Parses moments that people type (`22:00`, `tomorrow 03:00`, `2026-12-01 02:00`, `in 2h`) and hours of a day. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

FORMS = "`22:00`, `tomorrow 03:00`, `2026-12-01 02:00` or `2h`"
"""Examples of what people may type, for use in a sentence."""
_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY = "|".join(rf"{day[:3]}(?:{day[3:]})?" for day in _DAYS)
_CLOCK = r"(?P<hour>\d\d?)(?::(?P<minute>\d\d))?(?: ?(?P<half>am|pm))?"
_WHEN = re.compile(
    rf"(?:(?P<near>today|tonight|tomorrow)|(?P<day>{_DAY})|(?P<iso>\d{{4}}-\d\d?-\d\d?)|(?P<dotted>\d\d?\.\d\d?\.\d{{4}}))?"
    rf"(?:(?:^|[ t]| at ){_CLOCK})?"
)
_PART = re.compile(
    rf"in|at|today|tonight|tomorrow|{_DAY}|am|pm|\d\d?:\d\d(am|pm)?|\d\d?(am|pm)|\d{{1,4}}(m|min|h|d|w)"
    r"|\d{4}-\d\d?-\d\d?([t ]\S+)?|\d\d?\.\d\d?\.\d{4}",
    re.I,
)


def moment(typed: str, now: float, zone: ZoneInfo) -> float | None:
    """Parse a typed moment to epoch seconds; None where the text names no moment. The moment may be in the past.

    A time without a day is its next occurrence. A time that occurs twice because the clocks are put back is the first
    one still to come. A time that is skipped because they are put forward is later by the skipped time.
    """
    words = re.sub(r"^(until|for|in|at) ", "", " ".join(typed.lower().split()))
    if lasts := re.fullmatch(r"(\d{1,4}) ?(m|min|h|d|w)", words):
        return now + int(lasts[1]) * _UNITS[lasts[2]]
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\dt\d\d:\d\d(:\d\d)?(z|[+-]\d\d:\d\d)", words):
            return datetime.fromisoformat(words.upper()).timestamp()
        found = _WHEN.fullmatch(words)
        return _named(found, now, zone) if found and words else None
    except (ValueError, OverflowError):
        return None


def _named(found: re.Match[str], now: float, zone: ZoneInfo) -> float | None:
    dated = any(found[name] for name in ("near", "day", "iso", "dotted"))
    at = _clock(found["hour"], found["minute"], found["half"])
    if at is None:
        # A date alone means its midnight; a weekday, `tomorrow` or `22` alone is too ambiguous.
        return _epoch(_date(found, now, zone), time(), now, zone) if found["iso"] or found["dotted"] else None
    if dated:
        return _epoch(_date(found, now, zone), at, now, zone)
    today = datetime.fromtimestamp(now, zone).date()
    soon = _epoch(today, at, now, zone)
    return soon if soon > now else _epoch(today + timedelta(days=1), at, now, zone)


def _clock(hour: str | None, minute: str | None, half: str | None) -> time | None:
    if hour is None or (minute is None and half is None):
        return None
    if half and not 1 <= int(hour) <= 12:
        raise ValueError
    return time(int(hour) % 12 + 12 * (half == "pm") if half else int(hour), int(minute or 0))


def _date(found: re.Match[str], now: float, zone: ZoneInfo) -> date:
    if found["iso"]:
        year, month, day = map(int, found["iso"].split("-"))
        return date(year, month, day)
    if found["dotted"]:
        day, month, year = map(int, found["dotted"].split("."))
        return date(year, month, day)
    today = datetime.fromtimestamp(now, zone).date()
    if found["day"]:
        ahead = (next(n for n, name in enumerate(_DAYS) if name.startswith(found["day"])) - today.weekday()) % 7
        at = _clock(found["hour"], found["minute"], found["half"]) or time()
        later = today + timedelta(days=ahead)
        return later if _epoch(later, at, now, zone) > now else later + timedelta(days=7)
    return today + timedelta(days=found["near"] == "tomorrow")


def _epoch(day: date, at: time, now: float, zone: ZoneInfo) -> float:
    first, second = (datetime.combine(day, at, zone).replace(fold=fold).timestamp() for fold in (0, 1))
    # For a time that the clocks skip, fold=1 gives the earlier moment.
    return second if second > first and first <= now else first


def spelled(at: float, zone: ZoneInfo) -> str:
    """Format a moment, rounded up to a minute, so that typing it means the same moment: `2026-12-01T02:00+01:00`."""
    return datetime.fromtimestamp(math.ceil(at / 60) * 60, zone).isoformat(timespec="minutes")


def joined(words: list[str]) -> list[str]:
    """Join the words after `--at` that name a moment, so that `--at tomorrow 03:00` needs no quotation marks."""
    made: list[str] = []
    left = list(words)
    while left:
        made.append(left.pop(0))
        if made[-1] != "--at" or not left:
            continue
        parts = [left.pop(0)]
        while left and _goes_on(parts[-1], *left[:2]):
            parts.append(left.pop(0))
        made.append(" ".join(parts))
    return made


def _goes_on(before: str, word: str, after: str = "") -> bool:
    """Return whether a word continues the moment that the word before it belongs to."""
    halves = ("am", "pm")
    if word.isdigit() and len(word) <= 2:
        return after.lower() in halves
    if word.lower() in halves:
        return bool(re.fullmatch(r"\d\d?(:\d\d)?", before))
    return bool(_PART.fullmatch(word) and _PART.fullmatch(before))


@dataclass(frozen=True)
class Hours:
    """A part of each day, such as 22:00 to 05:00, which may span midnight."""

    begin: time
    end: time

    @classmethod
    def of(cls, text: str) -> Hours | None:
        """Parse hours such as `22:00-05:00`; None for "". Raises ValueError."""
        if not text:
            return None
        begin, _, end = text.replace(" ", "").partition("-")
        hours = cls(*(datetime.strptime(one, "%H:%M").time() for one in (begin, end)))
        if hours.begin == hours.end:
            raise ValueError(f"{text} is no part of a day")
        return hours

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"

    def has(self, at: float, zone: ZoneInfo) -> bool:
        """Return whether a moment is within these hours."""
        clock = datetime.fromtimestamp(at, zone).time()
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def next(self, now: float, zone: ZoneInfo) -> float:
        """Return when these hours begin next, or `now` where it is within them."""
        if self.has(now, zone):
            return now
        return moment(f"{self.begin:%H:%M}", now, zone) or now
