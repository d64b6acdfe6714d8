"""`/mautic approve`: say yes to a request."""

from __future__ import annotations

from bot.messages import Message
from bot.registry import Context, OperationNumber, TenantArgument, decides, query


@decides
@query
def approve(context: Context, id: OperationNumber, tenant: TenantArgument = "") -> Message:
    """Approve a request by its number; for a dangerous one, type the tenant's name after it."""
    context.approvals.decide(id, context.actor, "approve", typed_name=tenant, via="command")
    return context.renderer.say(f":white_check_mark: You approved operation {id}.")
