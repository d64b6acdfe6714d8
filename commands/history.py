"""`/mautic history`: what was asked for, decided and done."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import TenantArgument, query
from bot.slack.messages import Message
from bot.store.operation import WORTH_TELLING


@query
def history(context: Context, tenant: TenantArgument = "", *, all: bool = False) -> Message:
    """Show the latest operations, of one tenant or of all: who asked, who decided, what came of it.

    `--all` also shows what the bot did by itself and went well, such as hourly snapshots.
    """
    which = "1 = 1" if all else WORTH_TELLING
    # Of a batch its one line tells, but where a tenant's own are asked for.
    whose = "tenant = ?" if tenant else "parent = 0 AND ? = ''"
    found = context.operations.select(f"{which} AND {whose}", tenant, order="created DESC, id DESC", limit=15)
    return context.renderer.message("commands/history.j2", operations=found, tenant=tenant)
