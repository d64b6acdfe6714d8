"""`/mautic unfreeze`: ends a freeze."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import decides, query
from bot.slack.messages import Message
from bot.store.freezes import Freezes, subject


@decides
@query
def unfreeze(context: Context, tenant_or_all: str = "all") -> Message:
    """End the freeze of one tenant, or of all. Approved requests that waited start at once.

    A freeze of all tenants and a freeze of one are separate: end each by its own name. The person who froze may always
    unfreeze.
    """
    freezes = Freezes(context.operations)
    tenant = subject(tenant_or_all.rstrip(".,"))
    may_end = bool(context.actor.roles & set(context.settings.policy("unfreeze").ask))
    if not any((one.tenant, one.actor) == (tenant, context.actor.id) for one in freezes.all()):
        context.approvals.refuse_to_ask("unfreeze", context.actor)
    ended = freezes.end(tenant, context.actor.id, context.delivery, own=not may_end)
    return context.renderer.message("commands/unfreeze.j2", freeze=ended, others=freezes.all()[:5])
