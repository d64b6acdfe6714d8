"""Compares a tenant's pages before and after a change in pictures, with the share of pixels that differ.

A separate process makes the pictures from what was captured inside the tenant (`bot.model.pages`), as for the digest's
chart. The process has no network, sees no other process, does not run as root, and ends with everything it started.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bot.model.pages import PICTURED, Page, Pages
from bot.model.words import tame

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""The names of Chromium that are tried where the settings do not name a program."""
NOBODY = "nobody"
"""The user that takes pictures where the bot is root."""
SECONDS, PATIENCE, GRACE = 120.0, 15.0, 30.0
"""Seconds for all pictures of one comparison, for one page, and of grace before the process is killed."""
_FOLDER = "mautic-ops-pictures-"
"""The name prefix of a comparison's folder. It is outside the state directory, which NOBODY cannot enter."""
PICTURE, ANSWER = 4 << 20, 32 << 20
"""The most bytes of one picture, and of the process's whole answer."""
_ALONE = ("--pid", "--fork", "--kill-child", "--mount-proc")
_ROOT, _OTHER = ("unshare", "--net"), ("unshare", "--user", "--map-current-user", "--net")


class Capture(Struct):
    """A captured page or file, in the form that the process is given."""

    key: str
    path: str
    status: int
    type: str
    body: bytes


class Job(Struct):
    """The task of the process.

    `apart`: the process runs as another user without a network, so that it may work without a sandbox. `patience`:
    seconds for a page.
    """

    program: str
    folder: str
    domain: str
    apart: bool
    patience: float
    before: list[Capture]
    after: list[Capture]


class Picture(Struct, frozen=True):
    """A page before and after. `share`: the share of pixels that differ, 0 to 1. Without a picture, `why` says why."""

    key: str
    path: str
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    png: Annotated[bytes, Meta(max_length=PICTURE)] = b""
    why: str = ""


class Answer(Struct, frozen=True):
    """All pictures, or in `why` the reason why there are none."""

    pictures: list[Picture]
    why: str = ""


_ANSWER = msgspec.json.Decoder(Answer)
"""Created before any thread, because msgspec cannot set up one type in several threads at once."""


def chromium(program: str = "") -> str | None:
    """Return the path of Chromium: `program` from the settings, or else the first of NAMES; None if there is none."""
    return next((found for name in ((program,) if program else NAMES) if (found := shutil.which(name))), None)


def take(
    before: Pages, after: Pages, domain: str, program: str = "", seconds: float = SECONDS, patience: float = PATIENCE
) -> Answer:
    """Take pictures of the pages that people see and that were captured both times.

    Missing pictures are no error: `Answer.why` says in a sentence why there are none, `Picture.why` why one is missing.

    Args:
        domain: The tenant's domain, as its pages know it.
        program: The Chromium of the settings (`pictures.chromium`).
        seconds: Seconds for all pictures, which take about three each.
        patience: Seconds for one page.
    """
    found = chromium(program)
    if not found:
        return Answer([], "No pictures: Chromium is not on the bot's machine.")
    if importlib.util.find_spec("PIL") is None:
        return Answer([], "No pictures: Pillow is not installed. Run `make .venv`.")
    alone = _alone()
    apart = bool(alone) and os.geteuid() == 0
    _clear()
    folder = tempfile.mkdtemp(prefix=_FOLDER)
    try:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(NOBODY)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        job = Job(found, folder, domain, apart, patience, _captures(before), _captures(after))
        command = [*alone, sys.executable, "-m", "bot.reports.photographer", folder, str(seconds)]
        return _answer(_ran(command, msgspec.json.encode(job), seconds + GRACE))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear() -> None:
    """Remove the folders of bots that were killed while they took pictures."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * (SECONDS + GRACE):
                shutil.rmtree(left, ignore_errors=True)


def _captures(pages: Pages) -> list[Capture]:
    wanted = [page for page in pages.pages if page.key == "linked" or _is_shown(page)]
    return [Capture(page.key, page.path, page.status, page.type, page.body) for page in wanted]


def _is_shown(page: Page) -> bool:
    return page.key in PICTURED and page.type == "text/html" and bool(page.body)


def _alone() -> list[str]:
    """Return the command prefix that starts a program without a network and without sight of other processes.

    Without the second where only the network can be taken away; empty where neither is possible.
    """
    base = _ROOT if os.geteuid() == 0 else _OTHER
    for command in ((*base, *_ALONE), base):
        with suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False).returncode == 0:
                return list(command)
    return []


def _ran(command: Iterable[str], job: bytes, seconds: float) -> bytes:
    """Run the process to its end, and kill whatever it leaves; return its output, empty where it fails.

    The output goes to a file, so that the process's limit on the size of files bounds it.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=said, stderr=subprocess.DEVNULL, start_new_session=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        try:
            process.communicate(job, timeout=seconds)
        except subprocess.TimeoutExpired:
            return b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin:
                process.stdin.close()
        said.seek(0)
        return said.read(ANSWER) if process.returncode == 0 else b""


def _answer(said: bytes) -> Answer:
    try:
        answer = _ANSWER.decode(said)
    except ValueError:
        return Answer([], "No pictures: Chromium did not come to an end with them.")
    told = [
        msgspec.structs.replace(one, key=tame(one.key, 20), path=tame(one.path, 300), why=tame(one.why, 200))
        for one in answer.pictures
    ]
    why = f"No pictures: {tame(answer.why, 200)}" if answer.why else ""
    return Answer([one for one in told if one.key in PICTURED], why)
