"""The door: one verb, its request and its answer."""

import errno
import fcntl
import json
import os
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

from .system import LOCK, CtlError
from .wire import Wire

VERBS = {
    "install": "install.install",
    "seal": "seal.seal",
    "furnish": "furniture.furnish",
    "unfurnish": "furniture.unfurnish",
    "identity": "identity.identity",
    "resize": "sizes.resize",
    "close": "access.close",
    "open": "access.open_up",
    "quiesce": "access.quiesce",
    "hush": "access.hush",
    "unquiesce": "access.unquiesce",
    "restart": "restart.restart",
    "hold": "hold.hold",
    "page": "page.wait_for_page",
    "counts": "counts.counts",
    "logs": "logs.logs",
    "console": "console.run_console",
    "health": "health.health",
    "disk": "disk.disk",
    "used": "disk.used",
    "sync": "disk.sync",
    "mail": "outbound.mail",
    "release": "outbound.release",
    "version": "version.version",
    "stage": "stage.stage",
    "discard": "stage.discard",
    "swap": "swap.swap",
    "warm": "cache.warm",
    "pack_cache": "cache.pack_cache",
    "lay_cache": "cache.lay_cache",
    "record": "migrations.record",
    "migrate": "migrations.migrate",
    "up_to_date": "migrations.up_to_date",
    "reload": "upgrade.reload",
    "upgrade": "upgrade.upgrade",
    "assets": "page.assets",
    "evidence": "evidence.evidence",
    "withdrawals": "consent.withdrawals",
    "withdraw": "consent.withdraw",
}
"""The module and function of each; a module is loaded when it is asked for."""
SIDE_BY_SIDE = frozenset(
    [
        "hold", "page", "counts", "logs", "console", "health", "disk", "used", "sync", "mail", "version", "assets",
        "evidence", "up_to_date", "withdrawals",
    ]
)  # fmt: skip
"""Verbs that may run beside others."""
SPEAK = frozenset(["hold"])
"""Verbs that say more than their answer."""


def main(verb: str, text: bytes, wire: Wire) -> None:
    """Run one verb on a request and tell its answer."""
    os.umask(0o022)
    _sweep()
    answer = _answer(verb, text, wire)
    with suppress(BrokenPipeError):
        wire.tell(answer)
        wire.until_heard()


def _sweep() -> None:
    """Remove what a bot of before, which spoke by files, left when it was killed: its requests may hold passwords."""
    for left in LOCK.parent.glob("mautic-ctl.*"):
        if left != LOCK:
            with suppress(OSError):
                left.unlink()


def _answer(verb: str, text: bytes, wire: Wire) -> dict[str, Any]:
    if verb not in VERBS:
        return {"ok": False, "error": f"there is no verb {verb}"}
    module, _, function = VERBS[verb].partition(".")
    try:
        run = getattr(import_module(f".{module}", __package__), function)
        request = json.loads(text)
        with LOCK.open("w") as lock:
            if verb not in SIDE_BY_SIDE:
                fcntl.flock(lock, fcntl.LOCK_EX)
            return {"ok": True, **(run(request, wire) if verb in SPEAK else run(request))}
    except CtlError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"ok": False, "error": "its disk is full"}
        # Only where, not what: the text of an unexpected error may hold a secret.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "ok": False,
            "error": f"mautic-ctl {verb} failed unexpectedly: {type(error).__name__} in {place.name}",
        }
