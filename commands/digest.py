"""`/mautic digest`: shows the morning digest at any time."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import PeriodOption, TenantArgument, query
from bot.reports.digest import gather
from bot.slack.messages import Message


@query
def digest(context: Context, tenant: TenantArgument = "", *, since: PeriodOption = 86_400.0) -> Message:
    """Show problems and changes since yesterday, of all tenants or one.

    The same as the morning digest. `--since 7d` looks back further (`h`, `d` or `w`, up to 60 days).
    """
    found = gather(context, context.now() - since)
    if not tenant:
        return context.renderer.message("commands/digest.j2", digest=found, tenant=None)
    context.fleet.tenant(tenant)
    (wanted,) = [one for one in found.tenants if one.name == tenant]
    return context.renderer.message("commands/digest.j2", digest=found, tenant=wanted)
