"""`/mautic give-up`: end a request that needs action, as it stands."""

from __future__ import annotations

from bot.engine import attention
from bot.engine.context import Context
from bot.engine.registry import FreeWords, OperationNumber, decides, query
from bot.model.labels import Role, State
from bot.model.plan import Refused
from bot.model.tenants import candidate_name
from bot.slack.messages import Message
from bot.store.operation import Operation


@decides
@query
def give_up(context: Context, id: OperationNumber, *because: FreeWords) -> Message:
    """End a request that needs action as it stands, with a reason, and unlock its tenant.

    The bot neither continues the request nor rolls it back; Retry and Undo are no longer possible.
    """
    operation = context.operations.get(id)
    context.approvals.refuse_to_give_up(operation, context.actor)
    if operation.cutover and operation.committed and _may_serve(context, operation):
        raise Refused(
            f"Request #{id} can no longer be given up: the new container already serves, and only the cleanup is left. "
            "Retry, on its card, finishes that and loses nothing. If a host is lost for good, take it out of the "
            "settings first."
        )
    left = attention.assess(context, operation)
    headline = left["headline"] and f"{left['headline']}."
    kept = " ".join(filter(None, [headline, left["data"], _next(context, operation.tenant)]))
    context.approvals.give_up(operation, context.actor, " ".join(because), kept)
    return context.renderer.message("commands/give_up.j2", operation=context.operations.get(id), left=kept)


def _may_serve(context: Context, operation: Operation) -> bool:
    """Return whether the new container exists, or may exist on a server that does not answer.

    A host that is lost for good does not count once it is no longer in the settings.
    """
    seen = context.fleet.inventory(Role.TENANT, Role.INCOMING)
    return bool(seen.silent) or any(
        one.instance == candidate_name(operation.tenant, operation.id) for one in seen.tenants
    )


def _next(context: Context, tenant: str) -> str:
    """Return a sentence about how to start a tenant that was left half-way, or ""."""
    for one in context.fleet.inventory(Role.TENANT).tenants:
        if (one.name, one.state) == (tenant, State.MOVING):
            return f"`/mautic start {tenant}` starts the current container again."
    return ""
