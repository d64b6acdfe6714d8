"""`/mautic deny`: denies a request."""

from __future__ import annotations

from bot.messages import Message
from bot.registry import Context, FreeWords, OperationNumber, decides, query


@decides
@query
def deny(context: Context, id: OperationNumber, *because: FreeWords) -> Message:
    """Deny a request, with an optional reason."""
    denied = context.approvals.decide(id, context.actor, "deny", reason=" ".join(because), via="command")
    return context.renderer.say(f":no_entry: You denied {denied.named}.")
