"""Sees that what the bot says reaches people; where it does not, the bot's operators hear of it directly."""

from __future__ import annotations

import logging

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.plan import Refused
from bot.model.text import sentence
from bot.slack.people import Untold
from bot.slack.post import NotPosted

log = logging.getLogger(__name__)
LONG = 300.0
"""Seconds that Slack may refuse what is to be said before somebody has to look."""
SHOWN = 3
"""Operations that are named."""


@schedule(seconds=60)
def channel(context: Context) -> None:
    """See that `slack.channel` can be posted to, and that no card waits for minutes because Slack refuses it.

    Who may ask for `schedule` is told directly, once each time that the channel is lost.
    """
    place = context.settings.slack.channel
    try:
        trouble = context.people.channel_trouble(place) if place else ""
    except Untold as error:
        # A hiccup of Slack's is no lost channel: nobody is called for it.
        raise Refused(f"{error}, so whether `slack.channel` can be posted to is not known.") from error
    if trouble:
        said = f"Nothing can be said in `slack.channel`: {trouble}."
        _warn(context, said)
        raise Refused(said)
    with context.database.transaction() as transaction:
        transaction.execute("DELETE FROM warned WHERE subject = 'channel'")
    behind = context.database.read(
        "SELECT operation, why FROM unsaid JOIN operations o ON o.id = operation WHERE since <= ? AND"
        " (announced < revision OR o.id IN (SELECT operation FROM notes WHERE posted IS NULL)) ORDER BY since",
        context.now() - LONG,
    )
    if behind:
        told = "; ".join(f"operation {row['operation']}: {row['why'].rstrip('.')}" for row in behind[:SHOWN])
        more = f"; and {len(behind) - SHOWN} more" if len(behind) > SHOWN else ""
        raise Refused(f"Slack has not taken for minutes what is to be said of {told}{more}.")


def _warn(context: Context, said: str) -> None:
    """Tell each operator directly, once."""
    known = {row["person"] for row in context.database.read("SELECT person FROM warned WHERE subject = 'channel'")}
    message = context.renderer.say(f":warning: {sentence(said)} `/mautic doctor` tells how it stands.")
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
