"""`/mautic cancel`: cancels a request that has not started."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import OperationNumber, decides, query
from bot.slack.messages import Message


@decides
@query
def cancel(context: Context, id: OperationNumber) -> Message:
    """Cancel a request that has not started: your own, or one that you may decide on."""
    cancelled = context.approvals.cancel(id, context.actor)
    return context.renderer.say(f":leftwards_arrow_with_hook: You cancelled {cancelled.named}.")
