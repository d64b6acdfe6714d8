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
"""The most characters of an error's text that people are shown."""
log = logging.getLogger(__name__)


def explain(error: Exception, doing: str) -> tuple[str, str]:
    """Return the sentence that people are shown for an error, and the error's id in the log.

    The id is "" for errors whose own text is meant for people.
    """
    if isinstance(error, Refused | LxdError | DatabaseUnavailable | NotPosted):
        return tame(str(error), SENTENCE), ""
    identity = secrets.token_hex(4)
    log.error("error %s while %s", identity, doing, exc_info=error)
    return f"Something unexpected happened (error {identity} in the log).", identity
