"""`/mautic history`: what was asked for, decided and done."""

from __future__ import annotations

from bot.messages import Message
from bot.registry import Context, TenantArgument, query


@query
def history(context: Context, tenant: TenantArgument = "") -> Message:
    """Show the latest operations, of one tenant or of all: who asked, who decided, what came of it."""
    where, values = ("tenant = ?", (tenant,)) if tenant else ("1 = 1", ())
    found = context.operations.select(where, *values, order="id DESC", limit=15)
    return context.renderer.message("commands/history.j2", operations=found, tenant=tenant)
