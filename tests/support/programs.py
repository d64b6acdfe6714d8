"""Watches which programs the suite starts: each must be on the list of packages, or a fresh machine would lack it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.support.own import ROOT
from tests.support.packages import known

_OURS = (str(ROOT), sys.prefix, sys.base_prefix, tempfile.gettempdir(), "/proc/self/fd", "/no/such/")
"""Folders of programs that need no package; in the last one a contract test looks for a program that is missing."""
strangers: list[str] = []
"""Programs started since the last `look` that come neither from a package of the list nor from Debian itself."""


def _started(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen":
        return
    program = os.fsdecode(arguments[0])  # type: ignore[arg-type]
    if not known(Path(program).name) and not program.startswith(_OURS):
        strangers.append(program)


def watch() -> None:
    """Start watching, until this process ends."""
    sys.addaudithook(_started)


def look() -> list[str]:
    """Return what was seen since the last call, and forget it."""
    seen = sorted(set(strangers))
    strangers.clear()
    return seen
