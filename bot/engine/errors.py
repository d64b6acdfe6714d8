"""Turns errors into sentences for people."""

from __future__ import annotations

import logging
import secrets

from bot.lxd.protocol import LxdError
from bot.model.plan import Refused
from bot.model.words import tame
from bot.slack.poster import NotPosted
from bot.store.database import DatabaseUnavailable

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
