"""Tells what rehearsals found, and requests the upgrades that passed, for those who asked."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from bot.engine.context import Context
from bot.engine.guards import Change, Guards, Moment
from bot.engine.registry import Command, call
from bot.engine.rehearsal import pages
from bot.engine.scheduler import schedule
from bot.model.actor import Actor
from bot.model.evidence import Evidence
from bot.model.pages import worse
from bot.model.plan import Plan, Refused
from bot.model.text import sentence
from bot.reports import pictures
from bot.slack.poster import NotPosted
from bot.store import evidence
from bot.store.operation import Operation
from bot.store.operations import TenantBusy


@schedule(seconds=10)
def offers(context: Context) -> None:
    """Post what rehearsals found, and request the upgrades that passed where that was asked for."""
    for found, offer in evidence.untold(context.database):
        rehearsal = context.operations.get(found.operation)
        said = context.renderer.words("evidence.j2", found=found, offer=offer) + _pages(context, rehearsal, found)
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
    for rehearsals in context.operations.select(
        "command = 'rehearse' AND json_extract(plan, '$.texts.then') <> '' AND state IN ('succeeded', 'failed')"
        " AND id NOT IN (SELECT operation FROM offered)"
    ):
        said = ""
        try:
            _offer_rollout(context, rehearsals)
        except TenantBusy:
            continue
        except Refused as no:
            said = f":warning: The rollout is not requested: {sentence(str(no))}"
        with context.database.transaction() as transaction:
            evidence.told(transaction, rehearsals.id)
            if said:
                context.operations.note(transaction, rehearsals.id, said)
        context.operations.changed()


def _pages(context: Context, rehearsal: Operation, found: Evidence) -> str:
    """Attach the pictures of what a person sees to the thread; return what is to be said of pages and pictures."""
    try:
        before, after = pages(context.settings, found.operation)
    except OSError:
        return ""
    said = context.renderer.words("pages.j2", found=worse(before, after), left_out=after.left_out).strip()
    domain = context.fleet.tenant(found.tenant).domain
    taken = pictures.take(before, after, domain, context.settings.pictures.chromium)
    lines = [said, taken.why]
    for one in taken.pictures:
        if not one.png or not rehearsal.message_ts:
            lines.append(one.why)
            continue
        title = f"{one.key}: {one.share:.1%} of the picture differs"
        with suppress(NotPosted):
            context.post.picture(
                rehearsal.channel,
                one.png,
                name=f"rehearsal-{found.operation}-{one.key}.png",
                title=title,
                thread_ts=rehearsal.message_ts,
                alt=f"The {one.key} page before and after the upgrade, beside each other",
            )
    return "".join(f"\n{line}" for line in lines if line)


def _offer_rollout(context: Context, rehearsals: Operation) -> None:
    """Request the rollout that a batch of rehearsals was made for."""
    command, arguments = context.registry.parse(rehearsals.plan["texts"]["then"])
    _request(context, rehearsals, command, arguments)


def _offer(context: Context, rehearsal: Operation, found: Evidence) -> None:
    """Request an upgrade for who asked for its rehearsal; once, however often this is tried."""
    command = context.registry.command("patch" if found.patches else "upgrade")
    arguments = {"tenant": found.tenant} if found.patches else {"tenant": found.tenant, "version": found.version}
    _request(context, rehearsal, command, arguments)


def _request(context: Context, after: Operation, command: Command, arguments: dict[str, Any]) -> None:
    key = f"rehearsal-{after.id}"
    if context.operations.requested(key):
        return
    actor = Actor(after.requester, context.people.roles_now(after.requester))
    context = replace(context, actor=actor, channel=after.channel, delivery=key, follows=after.id)
    with context.fleet.looking_once():
        Guards(context).refuse(Moment.REQUEST, Change(command.name, after.tenant, actor))
        plan = call(command, context, arguments)
    if not isinstance(plan, Plan):
        raise Refused("Something has changed since the rehearsal, so it is rehearsed again.")
    batch = bool(plan.children)
    mention = context.people.refuse_unless_decidable(command.name, actor.id, batch=batch)
    policy = context.settings.policy(command.name, batch=batch)
    context.operations.request(
        command.name,
        plan,
        requester=actor.id,
        channel=after.channel,
        request_key=key,
        hours=policy.hours,
        approved=policy.approvals == 0,
        tell=f":bell: {mention}, please approve or deny this request." if mention else "",
    )
