"""Tells what rehearsals found, and requests the upgrades that passed, for those who asked."""

from __future__ import annotations

from dataclasses import replace

from bot.engine.context import Context
from bot.engine.guards import Change, Guards, Moment
from bot.engine.registry import call
from bot.engine.scheduler import schedule
from bot.model.actor import Actor
from bot.model.evidence import Evidence
from bot.model.plan import Plan, Refused
from bot.model.text import sentence
from bot.store import evidence
from bot.store.operation import Operation
from bot.store.operations import TenantBusy


@schedule(seconds=10)
def offers(context: Context) -> None:
    """Post what rehearsals found, and request the upgrades that passed where that was asked for."""
    for found, offer in evidence.untold(context.database):
        rehearsal = context.operations.get(found.operation)
        said = context.renderer.words("evidence.j2", found=found, offer=offer)
        try:
            if offer and found.passed:
                _offer(context, rehearsal, found)
        except TenantBusy:
            # Asked for again at the next look.
            continue
        except Refused as no:
            said += f"\n:warning: The upgrade is not requested: {sentence(str(no))}"
        with context.database.transaction() as transaction:
            evidence.told(transaction, found.operation)
            context.operations.note(transaction, found.operation, said)
        context.operations.changed()


def _offer(context: Context, rehearsal: Operation, found: Evidence) -> None:
    """Request an upgrade for who asked for its rehearsal; once, however often this is tried."""
    key = f"rehearsal-{rehearsal.id}"
    if context.operations.requested(key):
        return
    actor = Actor(rehearsal.requester, context.people.roles_now(rehearsal.requester))
    context = replace(context, actor=actor, channel=rehearsal.channel, delivery=key)
    command = context.registry.command("upgrade")
    with context.fleet.looking_once():
        Guards(context).refuse(Moment.REQUEST, Change(command.name, found.tenant, actor))
        mention = context.people.refuse_unless_decidable(command.name, actor.id)
        plan = call(command, context, {"tenant": found.tenant, "version": found.version})
    if not isinstance(plan, Plan):
        raise Refused(f"`{found.tenant}` has changed since its rehearsal, and is rehearsed again.")
    policy = context.settings.policy(command.name)
    context.operations.request(
        command.name,
        plan,
        requester=actor.id,
        channel=rehearsal.channel,
        request_key=key,
        hours=policy.hours,
        approved=policy.approvals == 0,
        tell=f":bell: {mention}, please approve or deny this request." if mention else "",
    )
