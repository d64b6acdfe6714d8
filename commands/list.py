"""`/mautic list`: lists all tenants."""

from __future__ import annotations

import shlex

from bot.engine.context import Context
from bot.engine.registry import TagWord, query
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.reports.condition import conditions, counted
from bot.slack.messages import Message
from bot.store.freezes import Freezes

PAGE = 25


@query
def list_(context: Context, part: str = "", *, page: int = 1, archived: bool = False, tag: TagWord = "") -> Message:
    """List tenants with state, plan and version, unhealthy ones first.

    `part` filters by name or domain, `--tag` by tag. `--archived` lists deleted tenants whose data is still kept.
    """
    seen = context.fleet.inventory(Role.ARCHIVED if archived else Role.TENANT)
    within = part.lower()
    found = [
        tenant
        for tenant in seen.tenants
        if (within in tenant.name or within in tenant.domain) and (not tag or tag in tenant.tags)
    ]
    known = conditions(context, found)
    # Tenants that need a person come first: nobody reads the last page.
    found.sort(key=lambda tenant: known[tenant.instance].urgency)
    pages = max(1, -(-len(found) // PAGE))
    if not 1 <= page <= pages:
        raise Refused(f"Only {pages} page{'s' if pages > 1 else ''}.")
    asked = [shlex.quote(part) if part else "", "--archived" if archived else "", f"--tag {tag}" if tag else ""]
    again = ["/mautic list", *asked, f"--page {page + 1 if page < pages else 1}"]
    return context.renderer.message(
        "commands/list.j2",
        tenants=found[(page - 1) * PAGE : page * PAGE],
        conditions=known,
        total=len(found),
        states=counted(known.values()),
        part=part,
        tag=tag,
        page=page,
        pages=pages,
        again=" ".join(filter(None, again)),
        archived=archived,
        silent=seen.silent,
        frozen={one.tenant: one for one in Freezes(context.operations).all()},
        url=context.settings.edge.url,
    )
