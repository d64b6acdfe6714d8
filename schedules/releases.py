"""Reads what the releases of Mautic say about themselves, and removes what killed builds left."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.fleet import bases
from bot.fleet import releases as known
from bot.model.plan import Refused


@schedule(seconds=900, at_start=True)
def releases(context: Context) -> None:
    """Download and check the releases in the settings; keep what blueprints are made of; remove what a build left.

    Each is read once; that an archive is gone, or is another than its checksum says, fails the job.
    """
    wrong = known.keep(context.settings)
    bases.keep(context.fleet, context.settings)
    known.clear(context.fleet, context.settings, context.now())
    if wrong:
        raise Refused(" ".join(wrong))
