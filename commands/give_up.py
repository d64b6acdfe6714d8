"""`/mautic give-up`: end what needs attention as it stands."""

from __future__ import annotations

from bot.engine import halt
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
    """End an operation that needs attention as it stands, with a reason: its tenant is free for the next request.

    Nothing more of it is done, and nothing is taken back; Retry and Undo are over with it.
    """
    operation = context.operations.get(id)
    context.approvals.refuse_to_give_up(operation, context.actor)
    if operation.cutover and operation.committed and _may_serve(context, operation):
        raise Refused(
            f"Operation {id} cannot be given up any more: the new container serves, and only what comes after that is "
            "missing. Retry, on its card, finishes it and loses nothing; a host that is lost for good has to be taken "
            "out of the settings first."
        )
    left = halt.look(context, operation)
    headline = left["headline"] and f"{left['headline']}."
    kept = " ".join(filter(None, [headline, left["data"], _next(context, operation.tenant)]))
    context.approvals.give_up(operation, context.actor, " ".join(because), kept)
    return context.renderer.message("commands/give_up.j2", operation=context.operations.get(id), left=kept)


def _may_serve(context: Context, operation: Operation) -> bool:
    """Whether its new container is there, or may be: a host that is lost for good is in the settings no more."""
    seen = context.fleet.look(Role.TENANT, Role.INCOMING)
    return bool(seen.silent) or any(
        one.instance == candidate_name(operation.tenant, operation.id) for one in seen.tenants
    )


def _next(context: Context, tenant: str) -> str:
    """Say how a tenant goes on that was left half way."""
    for one in context.fleet.look(Role.TENANT).tenants:
        if (one.name, one.state) == (tenant, State.MOVING):
            return f"`/mautic start {tenant}` lets it go on."
    return ""
