"""`mautic-look`: answers whether a job has anything to do.

`mautic-cron` writes `<job> <token>` into /run/mautic-look/ask, and reads `<token> <answer>` from answer-<job>, where a
job is written with `_` for `:`. The answers are `due`, `nothing`, `off` (nobody has set up what the job is for) and
`doubt`. If no answer comes within some seconds, `mautic-cron` assumes `doubt`.
"""

import os
import time
from collections.abc import Callable

from .database import Database
from .rules import MAJORS, RULES, broadcast_plugins

RUN = "/run/mautic-look"
MAUTIC = "/var/www/mautic"
CONFIG = ("config/local.php", "config/parameters_local.php")
RELEASE = "app/release_metadata.json"
AGAIN = 3600.0
"""Seconds after which plugins are read again; sooner if their folder has changed."""


class Looks:
    """Answers for one Mautic; keeps its files in memory and reads them again only when they have changed."""

    def __init__(self, rows: Callable[[str], list[list[str | None]]], mautic: str = MAUTIC) -> None:
        self._rows = rows
        self._mautic = mautic
        self._read: dict[str, tuple[tuple[int, int], str]] = {}
        self._plugins: tuple[float, int, bool] = (0.0, 0, True)

    def answer(self, command: str) -> str:
        """Return `due`, `nothing`, `off` or `doubt` for a job."""
        try:
            return self._answer(command)
        except Exception:
            # Whatever the error is: PHP is started, and reports better what is wrong.
            return "doubt"

    def _answer(self, command: str) -> str:
        rule = RULES[command]
        if not self._is_known():
            return "doubt"
        rows = rule.rows
        if rule.set_up:
            config = "\n".join(self._text(name) for name in CONFIG)
            if not rule.set_up(config):
                return "off"
            rows = rule.rows_by(config)
        if not rows or self._rows(rows):
            return "due"
        if rule.plugins and self._broadcasts():
            return "due"
        return "nothing"

    def _is_known(self) -> bool:
        # Parses `"version": "5.2.9"` without the memory of a JSON parser.
        _, _, after = self._text(RELEASE).partition('"version"')
        major = after.partition('"')[2].partition(".")[0]
        return major.isdecimal() and int(major) in MAJORS

    def _text(self, name: str) -> str:
        path = f"{self._mautic}/{name}"
        try:
            seen = os.stat(path)
        except FileNotFoundError:
            return ""
        state = (seen.st_mtime_ns, seen.st_size)
        if self._read.get(name, ((0, 0), ""))[0] != state:
            with open(path, encoding="utf-8", errors="replace") as file:
                self._read[name] = (state, file.read())
        return self._read[name][1]

    def _broadcasts(self) -> bool:
        folder = f"{self._mautic}/plugins"
        at, changed, found = self._plugins
        now, last_change = time.monotonic(), os.stat(folder).st_mtime_ns
        if changed != last_change or now - at > AGAIN:
            found = broadcast_plugins(folder)
            self._plugins = (now, last_change, found)
        return found


def main() -> None:
    """Answer requests until the process is stopped."""
    looks = Looks(Database().rows)
    answers = {command: _fifo(f"{RUN}/answer-{command.replace(':', '_')}") for command in RULES}
    # Nobody writes to this FIFO: a job reads from it, with a timeout, to wait for its second.
    _fifo(f"{RUN}/wait")
    names = {command.replace(":", "_"): command for command in RULES}
    asked = _fifo(f"{RUN}/ask")
    os.set_blocking(asked, True)
    left = b""
    while True:
        *lines, left = (left + os.read(asked, 4096)).split(b"\n")
        for line in lines:
            name, _, token = line.decode(errors="replace").partition(" ")
            if command := names.get(name):
                _tell(answers[command], f"{token} {looks.answer(command)}\n".encode())


def _fifo(path: str) -> int:
    """Create a FIFO and open it for reading and writing, so that reads never see its end and opening never blocks."""
    if os.path.lexists(path):
        os.unlink(path)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def _tell(to: int, answer: bytes) -> None:
    try:  # noqa: SIM105 - contextlib is not worth its memory here
        # Discard an answer that nobody has read.
        os.read(to, 65536)
    except BlockingIOError:
        pass
    os.write(to, answer)
