"""Watches which programs the suite starts: each is to be on the list, or a fresh machine would lack it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.support.own import ROOT
from tests.support.packages import known

_OURS = (str(ROOT), sys.prefix, sys.base_prefix, tempfile.gettempdir(), "/proc/self/fd", "/no/such/")
"""Where programs are that need no package; the last is where the contract of commands looks for one in vain."""
strangers: list[str] = []
"""What was started since the last look, and is given neither by a package of the list nor by Debian itself."""


def _started(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen":
        return
    program = os.fsdecode(arguments[0])  # type: ignore[arg-type]
    if not known(Path(program).name) and not program.startswith(_OURS):
        strangers.append(program)


def watch() -> None:
    """Watch from now on, for the whole life of this process."""
    sys.addaudithook(_started)


def look() -> list[str]:
    """What was seen since the last look."""
    seen = sorted(set(strangers))
    strangers.clear()
    return seen
