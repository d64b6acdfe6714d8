"""Makes the plans of the rehearsal and the upgrade of one tenant: what people are shown, and what the steps need.

Several commands use them: `rehearse`, `upgrade`, `patch` and `rollout`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.engine.bases import blueprint_of, earliest_useful_base, needs_base
from bot.engine.context import Context
from bot.engine.guards import FREEZE, Change, Guards, Moment
from bot.engine.placement import Elsewhere, admit, demand_of, refuse_full_pool
from bot.engine.snapshots import left_behind
from bot.engine.steps import refuse_another, refuse_full
from bot.engine.upgrades import refuse_missing, refuse_resting, target
from bot.fleet.releases import releases
from bot.guest.blueprint.recipe import suite_of
from bot.model.evidence import Evidence
from bot.model.plan import Plan, always, once
from bot.model.releases import find
from bot.model.tenants import Tenant, candidate_name
from bot.model.text import kept_for


@dataclass(frozen=True)
class RehearsalInputs:
    """The tenant, the version that its copy gets, and whether the upgrade is requested once the rehearsal has passed.

    `base`: the copy also moves to a new container, whose packages were installed at `newer` (epoch seconds) or later.
    """

    found: Tenant
    version: str
    offer: bool
    base: bool = False
    newer: float = 0.0


@dataclass(frozen=True)
class UpgradeInputs:
    """What the steps of an upgrade or a patch need.

    `rehearsed`: the rehearsal whose cache is carried over. `days`: for which the previous container is kept.
    `blueprint`: what the new container is made of; None: it is a copy of the present one.
    """

    old: Tenant
    version: str
    rehearsed: int
    days: int
    blueprint: Tenant | None = None


def rehearsal_of(context: Context, tenant: str, version: str, *, offer: bool, base: bool = False) -> Plan:
    """Return the plan of the rehearsal of one tenant.

    `base`: rehearse a move to a newer base, with the Mautic that the tenant has.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    version = found.version if base else target(context, found, version).version
    moves = base or needs_base(context, found, version)
    onto = "a new container" + (f" with {_of_suite(context, found, version)}" if moves and not base else "")
    doing = f"Debian update of tenant {tenant}" if base else f"upgrade of tenant {tenant} to Mautic {version}"
    demand = demand_of(context, found, host, candidate_name(tenant, context.operation), beside=True)
    if moves:
        # One copy as the tenant is, and the new container that its data is brought to.
        demand = replace(demand, memory=2 * demand.memory)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "version": version, "offer": offer, **({"base": True} if base else {})},
        summary=f"Rehearse the {doing}",
        facts={
            "From": found.version,
            "To": version,
            **({"Onto": onto} if moves else {}),
            "Touches": f"{'copies' if moves else 'a copy'} only, which {'are' if moves else 'is'} deleted afterwards",
        },
        values={"from": found.version, "to": version, **({"base": True} if moves else {})},
        requires=(
            always(refuse_resting, found, "rehearsed"),
            *(() if base else (always(refuse_missing, context, version),)),
            once(refuse_full, context, found),
            once(refuse_full_pool, context, host),
            always(admit, context, host, demand, f"A copy of `{tenant}` cannot start on", Elsewhere.by_move(found)),
        ),
        inputs=RehearsalInputs(found, version, offer, moves, earliest_useful_base(context, found) if base else 0.0),
        demand=demand.stored(),
        reversible="changes nothing",
        seconds=60,
        host=found.host,
    )


def upgrade_of(context: Context, old: Tenant, found: Evidence) -> Plan:
    """Return the plan of a tenant's upgrade or patch, by what the rehearsal found."""
    version, patches = found.version, found.patches
    blueprint = blueprint_of(context, found)
    host = context.fleet.of(old)
    days = context.settings.retention.retired_days
    # Both containers run for a moment at most, but the old one may have to run again.
    demand = demand_of(context, old, host, candidate_name(old.name, context.operation), beside=True)
    return Plan(
        tenant=old.name,
        arguments={"tenant": old.name} if patches else {"tenant": old.name, "version": version},
        summary=f"Update the Debian packages of tenant {old.name}"
        if patches
        else f"Upgrade tenant {old.name} to Mautic {version}",
        facts={
            "Client offline": f"for about {found.away:.0f} s, with a maintenance page (measured on a copy)",
            **({"Mautic": f"{version}, stays"} if patches else {"From": old.version, "To": version}),
            **(_onto(context, old, found) if blueprint else {}),
            "Rehearsed": context.renderer.moment(found.at),
            "Previous container": f"kept, stopped, {kept_for(days)}",
            # A batch does not count them: that would take a request per tenant.
            **({"Existing snapshots": "stay in the previous container"} if context.many else {}),
            "Rollback": f"automatic, {old.name} keeps running in the current container",
        },
        values={
            "from": old.version,
            "to": version,
            "rehearsal": found.operation,
            "days": days,
            "away": round(found.away, 1),
            **({"blueprint": blueprint.instance} if blueprint else {}),
        },
        remarks=_told(found),
        until_done=("Client offline", "Rollback"),
        requires=(
            always(refuse_another, context, old),
            always(refuse_resting, old, "patched" if patches else "upgraded"),
            *(() if patches else (always(refuse_missing, context, version),)),
            once(refuse_full, context, old),
            once(refuse_full_pool, context, host),
            once(left_behind, context, old),
            always(
                admit,
                context,
                host,
                demand,
                f"The {'new container' if patches else 'upgraded copy'} of `{old.name}` cannot start on",
                Elsewhere.by_move(old),
            ),
        ),
        inputs=UpgradeInputs(old, version, found.operation, days, blueprint),
        demand=demand.stored(),
        reversible=f"can be undone with `rollback {old.name}`",
        seconds=30,
        cutover="patch" if patches else "upgrade",
        can_wait=True,
    )


def unpaused(context: Context, plan: Plan) -> Plan:
    """Return the plan of a batch of rehearsals that no failure pauses: a failed rehearsal is an answer, too."""
    values = {**plan.values, "stop_after": len(plan.children) + 1}
    return replace(plan, values=values, facts={**plan.facts, "Pace": pace_of(context)})


def pace_of(context: Context) -> str:
    """Say how many tenants of a batch are worked on together."""
    pace = context.settings.batches
    return f"{pace.at_once} at once, {pace.at_once_host} per host"


def _onto(context: Context, old: Tenant, found: Evidence) -> dict[str, str]:
    """Return the facts of the new container, for the card."""
    now = context.renderer.moment(old.base) if old.base else "not known"
    told = {"Debian packages": f"from {context.renderer.moment(found.base)} (now: {now})"}
    for name, (before, after) in {"PHP": found.php, "MariaDB": found.mariadb}.items():
        if before != after:
            told[name] = f"{after} (now {before})"
    return told


def _of_suite(context: Context, found: Tenant, version: str) -> str:
    release = find(releases(context.settings), version)
    suite = suite_of(release, found.suite) if release else None
    return f"PHP {suite.php} and MariaDB {suite.mariadb}" if suite else "newer Debian packages"


def rehearse_first(context: Context, plan: Plan) -> None:
    """Request the rehearsals that the decision on an upgrade rests on: they begin at once, without approval.

    Raises Refused, as for any request, but does not check who may request rehearsals: the person who asked for the
    upgrade may.
    """
    Guards(context).refuse(
        Moment.REQUEST, Change("rehearse", plan.tenant, context.actor, planned=True), FREEZE, "busy", "half-way"
    )
    context.operations.request(
        "rehearse",
        plan,
        requester=context.actor.id,
        channel=context.channel,
        request_key=f"{context.delivery}.rehearse",
        hours=24,
        approved=True,
    )


def _told(found: Evidence) -> dict[str, str]:
    """Return what the rehearsal found, as short remarks for the card."""
    told = {"Migrations": f"{len(found.migrations)}, {found.written} rows written" if found.migrations else "none"}
    if found.schema.added or found.schema.removed:
        told["Schema"] = f"{found.schema.added} lines added, {found.schema.removed} removed"
    if found.uncounted:
        told["Not compared"] = f"rows of {', '.join(found.uncounted)} (too large)"
    if found.plugins:
        told["Plugins"] = ", ".join(
            f"{name} ({'loads' if loads else 'does not load'})" for name, loads in found.plugins.items()
        )
    if found.overwritten:
        # The number first, because the card cuts a long line.
        number = len(found.overwritten) + found.unnamed
        files = f"{number} file{'s' if number != 1 else ''} that {'were' if number != 1 else 'was'} changed by hand"
        told["Overwritten"] = f":warning: {files}: {', '.join(found.overwritten)}"
    if found.errors:
        told["New log errors"] = f":warning: {len(found.errors)}: {found.errors[0]}"
    return told
