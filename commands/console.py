"""`/mautic console`: one of Mautic's own commands, from a list of what does no harm."""

from __future__ import annotations

from bot import audit
from bot.console import NotAllowed, allowed
from bot.messages import Message
from bot.plan import Refused
from bot.registry import Context, FreeWords, TenantArgument, fresh, query


@fresh
@query
def console(context: Context, tenant: TenantArgument, *command: FreeWords) -> Message:
    """Run one of Mautic's own commands in a tenant, from a list of those that do no harm.

    Without a command it shows the list. Only operators and approvers may; it stands in the audit log.
    """
    context.approvals.refuse_to_ask("console", context.actor)
    found = context.fleet.tenant(tenant)
    try:
        words = allowed(command)
    except NotAllowed as error:
        raise Refused(str(error)) from error
    event = audit.Event("console.run", context.actor.id, tenant, 0, {"words": " ".join(words)})
    with context.database.transaction() as transaction:
        audit.record(transaction, event, context.now())
    code, output = context.fleet.of(found).mautic.console(found.instance, words)
    return context.renderer.message(
        "commands/console.j2", tenant=tenant, words=" ".join(words), code=code, output=output
    )
