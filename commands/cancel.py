"""`/mautic cancel`: withdraw a request."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import OperationNumber, decides, query
from bot.slack.messages import Message


@decides
@query
def cancel(context: Context, id: OperationNumber) -> Message:
    """Withdraw a request that still waits: your own, or one that you may decide on."""
    context.approvals.cancel(id, context.actor)
    return context.renderer.say(f":leftwards_arrow_with_hook: You withdrew operation {id}.")
