"""Debian as the tests' blueprints have it, put together early: `make test` does so while its quick part waits.

Nothing is said where it cannot be: the tests that need it say so.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

from bot.guest.blueprint.base import BaseError, prepare
from tests.support.real_lxd import SHARED

if __name__ == "__main__" and shutil.which("lxd"):
    with suppress(BaseError):
        prepare(SHARED / "host" / "cache", print)
