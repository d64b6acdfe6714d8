"""A bot that waits at the start of a step while the file `hold` in its state folder names that moment: `started 4`.

So a test can break something at exactly that moment, however slow the machine is.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from bot import program
from bot.engine.context import Context
from bot.engine.runner import Runner


class HeldRunner(Runner):
    """The bot's runner, with a fault function that only waits."""

    def __init__(self, context: Context, workers: int) -> None:
        super().__init__(context, workers, lambda moment: wait(context.settings.state / "hold", moment))


def wait(hold: Path, moment: str) -> None:
    """Wait while the file names the moment, at most 600 seconds: the test may have died meanwhile."""
    give_up = time.monotonic() + 600
    with suppress(FileNotFoundError):
        while hold.read_text() == moment and time.monotonic() < give_up:
            time.sleep(0.01)


if __name__ == "__main__":
    program.Runner = HeldRunner  # type: ignore[misc]
    sys.exit(program.main(["run"]))
