"""`/mautic approve`: say yes to a request."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import Confirmation, OperationNumber, decides, query
from bot.slack.messages import Message


@decides
@query
def approve(context: Context, id: OperationNumber, tenant: Confirmation = "", choice: str = "") -> Message:
    """Approve a request by its number; for a dangerous one, type the tenant's name after it.

    Of one on many tenants, type how many.

    Where the card leaves something to choose, the choice comes last: `approve 12 drop`, `approve 12 client-x drop`.
    """
    operation = context.operations.get(id)
    if not choice and tenant != operation.confirmation and tenant in operation.options:
        tenant, choice = "", tenant
    context.approvals.decide(id, context.actor, "approve", typed_name=tenant, choice=choice.lower(), via="command")
    return context.renderer.say(f":white_check_mark: You approved operation {id}.")
