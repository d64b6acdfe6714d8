"""`/mautic snapshots`: lists the snapshots of a tenant."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import TenantArgument, query
from bot.engine.snapshots import KEPT, counted, ours, retention
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.slack.messages import Message

PAGE = 15


@query
def snapshots(context: Context, tenant: TenantArgument, *, page: int = 1) -> Message:
    """List the snapshots of a tenant, newest first: age, size, who took each and why, and how long it is kept."""
    found = context.fleet.tenant(tenant)
    lxd = context.fleet.of(found).lxd
    existing = lxd.snapshots(found.instance)
    now, days = context.now(), context.settings.retention.retired_days
    rule, points = retention(context, tenant), counted(context, existing)
    kept = {name: f"kept as latest {', '.join(tiers)}" for name, tiers in rule.kept(points, now).items() if tiers}
    kept |= {point.name: "expires at the next cleanup" for point in rule.surplus(points, now)}
    known = [(one, one.protected(days, context.uptime.before) or kept.get(one.name) or KEPT) for one in ours(existing)]
    for former in context.fleet.inventory(Role.RETIRED).tenants:
        # The snapshots in retired containers of the tenant can be restored too.
        if (former.name, former.host) == (found.name, found.host):
            end = f"deleted {context.renderer.moment(former.kept_until)}" if former.kept_until else "kept until purged"
            until = f"in the previous container (replaced by {former.reason}), {end}"
            known += [(one, until) for one in ours(lxd.snapshots(former.instance))]
    known.sort(key=lambda row: (row[0].at, row[0].name), reverse=True)
    pages = max(1, -(-len(known) // PAGE))
    if not 1 <= page <= pages:
        raise Refused(f"Only {pages} page{'s' if pages > 1 else ''}.")
    return context.renderer.message(
        "commands/snapshots.j2",
        tenant=tenant,
        total=len(known),
        held=sum(one.size for one in existing),
        allowed=context.settings.snapshots_allowed(found.plan),
        shown=[(one, max(0.0, now - one.at), kept) for one, kept in known[(page - 1) * PAGE : page * PAGE]],
        page=page,
        pages=pages,
    )
