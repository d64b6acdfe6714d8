"""Builds the Debian images of the tests' blueprints early: `make test` runs this in the background at its start.

A failure is not reported here: the tests that need the images report it.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

from bot.guest.blueprint.base import BaseError, prepare
from tests.support.real_lxd import SHARED

if __name__ == "__main__" and shutil.which("lxd"):
    with suppress(BaseError):
        prepare(SHARED / "host" / "cache", print)
