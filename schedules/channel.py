"""Checks that the bot can post to Slack, and warns the operators directly when it cannot."""

from __future__ import annotations

import logging

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.plan import Refused
from bot.model.text import sentence
from bot.slack.people import Untold
from bot.slack.poster import NotPosted

log = logging.getLogger(__name__)
LONG = 300.0
"""Seconds that Slack may refuse a message before a person has to look."""
SHOWN = 3
"""Operations that the error names."""


@schedule(seconds=60)
def channel(context: Context) -> None:
    """Check that the bot can post to `slack.channel`, and that Slack refuses no card for minutes.

    When the channel is lost, everybody who may use `schedule` gets one direct message.
    """
    place = context.settings.slack.channel
    try:
        problem = context.people.channel_problem(place) if place else ""
    except Untold as error:
        # A hiccup of Slack's is no lost channel: nobody is warned of it.
        raise Refused(f"{error}, so access to `slack.channel` can't be checked.") from error
    if problem:
        said = f"I can't post to `slack.channel`: {problem}."
        _warn(context, said)
        raise Refused(said)
    with context.database.transaction() as transaction:
        transaction.execute("DELETE FROM warned WHERE subject = 'channel'")
    behind = context.database.read(
        "SELECT operation, why FROM unsaid JOIN operations o ON o.id = operation WHERE (since <= ? OR since > ?) AND"
        " (announced < revision OR o.id IN (SELECT operation FROM notes WHERE posted IS NULL)) ORDER BY since",
        context.now() - LONG,
        # A clock that was ahead recorded it, so nobody knows how long ago that was.
        context.now(),
    )
    if behind:
        told = "; ".join(
            f"{context.operations.get(row['operation']).named}: {row['why'].rstrip('.')}" for row in behind[:SHOWN]
        )
        more = f"; and {len(behind) - SHOWN} more" if len(behind) > SHOWN else ""
        raise Refused(f"Slack has refused messages for minutes: {told}{more}.")


def _warn(context: Context, said: str) -> None:
    """Tell each operator directly, once."""
    known = {row["person"] for row in context.database.read("SELECT person FROM warned WHERE subject = 'channel'")}
    message = context.renderer.say(f":warning: {sentence(said)} Details: `/mautic doctor`")
    for person in context.people.operators():
        if person in known:
            continue
        try:
            context.post.directly(person, message, key=f"channel {person}")
        except NotPosted as error:
            log.warning("cannot warn %s: %s", person, error)
            continue
        with context.database.transaction() as transaction:
            transaction.execute("INSERT INTO warned VALUES ('channel',?,?)", (person, context.now()))
