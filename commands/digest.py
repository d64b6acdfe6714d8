"""`/mautic digest`: what became of the fleet, or of one tenant, and what needs a look."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import PeriodOption, TenantArgument, query
from bot.reports.digest import gather
from bot.slack.messages import Message


@query
def digest(context: Context, tenant: TenantArgument = "", *, since: PeriodOption = 86_400.0) -> Message:
    """Show what became of the fleet since yesterday, or of one tenant, and what needs a look.

    The same as every morning, at any time; `--since 7d` looks back farther (`h`, `d` and `w`, 60 days at most).
    """
    found = gather(context, context.now() - since)
    if not tenant:
        return context.renderer.message("commands/digest.j2", digest=found, tenant=None)
    context.fleet.tenant(tenant)
    (wanted,) = [one for one in found.tenants if one.name == tenant]
    return context.renderer.message("commands/digest.j2", digest=found, tenant=wanted)
