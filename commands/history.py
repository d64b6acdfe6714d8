"""`/mautic history`: lists requests, decisions and results."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import TenantArgument, query
from bot.slack.messages import Message
from bot.store.operation import WORTH_TELLING


@query
def history(context: Context, tenant: TenantArgument = "", *, all: bool = False) -> Message:
    """List the latest requests, of one tenant or all: who requested, who decided, and the result.

    `--all` includes successful background tasks, such as hourly snapshots.
    """
    which = "1 = 1" if all else WORTH_TELLING
    # A batch is one line, except in the history of one tenant.
    whose = "tenant = ?" if tenant else "parent = 0 AND ? = ''"
    found = context.operations.select(f"{which} AND {whose}", tenant, order="created DESC, id DESC", limit=15)
    if tenant and not found:
        # A name that nobody ever used is most likely a typo.
        context.fleet.tenant(tenant)
    return context.renderer.message("commands/history.j2", operations=found, tenant=tenant)
