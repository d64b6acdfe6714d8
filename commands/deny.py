"""`/mautic deny`: denies a request."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import FreeWords, OperationNumber, decides, query
from bot.slack.messages import Message


@decides
@query
def deny(context: Context, id: OperationNumber, *because: FreeWords) -> Message:
    """Deny a request, with an optional reason."""
    denied = context.approvals.decide(id, context.actor, "deny", reason=" ".join(because), via="command")
    return context.renderer.say(f":no_entry: You denied {denied.named}.")
