"""The door: one verb, its request and its answer."""

import errno
import fcntl
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from .means import LOCK, CtlError, write

VERBS = {
    "install": "install.install",
    "seal": "seal.seal",
    "identity": "identity.identity",
    "resize": "sizes.resize",
    "close": "doors.close",
    "open": "doors.open_up",
    "quiesce": "doors.quiesce",
    "hush": "doors.hush",
    "unquiesce": "doors.unquiesce",
    "restart": "restart.restart",
    "hold": "hold.hold",
    "page": "page.wait_for_page",
    "counts": "counts.counts",
    "logs": "logs.logs",
    "console": "console.run_console",
    "health": "health.health",
    "disk": "disk.disk",
    "mail": "outbound.mail",
    "release": "outbound.release",
    "version": "version.version",
}
"""The module and function of each; a module is loaded when it is asked for."""
SIDE_BY_SIDE = frozenset(["hold", "page", "counts", "logs", "console", "health", "disk", "mail", "version"])
"""Verbs that may run beside others."""


def main(argv: list[str]) -> int:
    """Run one verb; 0 when it did what was asked, 2 when nothing was begun, 3 when the answer says why not.

    1 is Python's own, where it does not find the tool as a whole.
    """
    if len(argv) != 4 or argv[1] not in VERBS:
        print(f"usage: mautic-ctl {'|'.join(VERBS)} REQUEST_FILE RESULT_FILE", file=sys.stderr)
        return 2
    verb, request_file, result_file = argv[1], Path(argv[2]), Path(argv[3])
    os.umask(0o022)
    module, _, function = VERBS[verb].partition(".")
    try:
        run = getattr(import_module(f".{module}", __package__), function)
        text = request_file.read_text()
        request_file.unlink()
    except (ImportError, FileNotFoundError):
        # A boot has just hidden the tool and its request under a new folder.
        return 2
    answer: dict[str, Any]
    try:
        request = json.loads(text)
        with LOCK.open("w") as lock:
            if verb not in SIDE_BY_SIDE:
                fcntl.flock(lock, fcntl.LOCK_EX)
            answer = {"ok": True, **run(request)}
    except CtlError as error:
        answer = {"ok": False, "error": str(error)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            answer = {"ok": False, "error": "its disk is full"}
        else:
            # Only where, not what: the text of an unexpected error may hold a secret.
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = {
                "ok": False,
                "error": f"mautic-ctl {verb} failed unexpectedly: {type(error).__name__} in {place.name}",
            }
    write(result_file, json.dumps(answer), 0o600)
    return 0 if answer["ok"] else 3
