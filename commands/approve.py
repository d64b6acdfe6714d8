"""`/mautic approve`: approves a request."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import Confirmation, OperationNumber, decides, query
from bot.slack.messages import Message


@decides
@query
def approve(context: Context, id: OperationNumber, tenant: Confirmation = "", choice: str = "") -> Message:
    """Approve a request. Risky ones also need the tenant name: `approve 81 acme-gym`.

    For a request on many tenants, type the number of tenants instead of the name.

    If the card offers options, add the option at the end: `approve 12 drop`, `approve 12 client-x drop`.
    """
    operation = context.operations.get(id)
    if not choice and tenant != operation.confirmation and tenant in operation.options:
        tenant, choice = "", tenant
    context.approvals.decide(id, context.actor, "approve", typed_name=tenant, choice=choice.lower(), via="command")
    return context.renderer.say(f":white_check_mark: You approved {operation.named}.")
