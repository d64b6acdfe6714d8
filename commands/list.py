"""`/mautic list`: the tenants there are."""

from __future__ import annotations

import shlex

from bot.engine.context import Context
from bot.engine.registry import query
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.reports.condition import conditions, counted
from bot.slack.messages import Message
from bot.store.freezes import Freezes

PAGE = 25


@query
def list_(context: Context, part: str = "", *, page: int = 1, archived: bool = False) -> Message:
    """Show the tenants, those that are not well first, with state, plan and version.

    `part` keeps the names and domains that contain it; `--archived` shows those that were deleted but are kept.
    """
    seen = context.fleet.look(Role.ARCHIVED if archived else Role.TENANT)
    found = [tenant for tenant in seen.tenants if part.lower() in tenant.name or part.lower() in tenant.domain]
    known = conditions(context, found)
    # What needs somebody must not stand on the last page.
    found.sort(key=lambda tenant: known[tenant.instance].urgency)
    pages = max(1, -(-len(found) // PAGE))
    if not 1 <= page <= pages:
        raise Refused(f"There is no page {page}; there {'are' if pages > 1 else 'is'} {pages}.")
    asked = [shlex.quote(part) if part else "", "--archived" if archived else ""]
    again = ["/mautic list", *asked, f"--page {page + 1 if page < pages else 1}"]
    return context.renderer.message(
        "commands/list.j2",
        tenants=found[(page - 1) * PAGE : page * PAGE],
        conditions=known,
        total=len(found),
        states=counted(known.values()),
        part=part,
        page=page,
        pages=pages,
        again=" ".join(filter(None, again)),
        archived=archived,
        silent=seen.silent,
        frozen={one.tenant: one for one in Freezes(context.operations).all()},
        url=context.settings.edge.url,
    )
