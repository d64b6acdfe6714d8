"""Turns errors into sentences for people."""

from __future__ import annotations

import logging
import secrets

from bot.database import DatabaseUnavailable
from bot.lxd import LxdError
from bot.plan import Refused
from bot.post import NotPosted
from bot.words import tame

SENTENCE = 2000
"""Characters of what went wrong."""
log = logging.getLogger(__name__)


def explain(error: Exception, doing: str) -> tuple[str, str]:
    """Return what a person is told of an error, and its id in the log ("" when the sentence says it all)."""
    if isinstance(error, Refused | LxdError | DatabaseUnavailable | NotPosted):
        return tame(str(error), SENTENCE), ""
    identity = secrets.token_hex(4)
    log.error("error %s while %s", identity, doing, exc_info=error)
    return f"Something unexpected happened (error {identity} in the log).", identity
