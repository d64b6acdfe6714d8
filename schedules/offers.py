"""Reports what rehearsals found and how rollouts ended, and requests the upgrades that passed, for those who asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from bot.engine.context import Context
from bot.engine.guards import Change, Guards, Moment
from bot.engine.registry import Command, call
from bot.engine.rehearsal import LOG, files, pages
from bot.engine.scheduler import schedule
from bot.lxd.protocol import LxdError
from bot.model.actor import Actor
from bot.model.evidence import Evidence
from bot.model.pages import worse
from bot.model.plan import Plan, Refused
from bot.model.text import sentence
from bot.model.words import without_mailboxes
from bot.reports import pictures
from bot.slack.poster import NotPosted
from bot.store import evidence
from bot.store.operation import Operation
from bot.store.operations import TenantBusy

ROLLOUTS = "id IN (SELECT operation FROM batches) AND json_extract(plan, '$.values.soak') IS NOT NULL"
"""Batches in rings: rollouts, and patches of many."""
REHEARSED = "command = 'rehearse' AND json_extract(plan, '$.texts.then') <> '' AND state <> 'cancelled'"
"""Batches of rehearsals that a request follows."""
ENDED = "state IN ('succeeded', 'failed', 'cancelled') AND id NOT IN (SELECT operation FROM offered)"


@schedule(seconds=10)
def offers(context: Context) -> None:
    """Post what rehearsals found, request the upgrades that passed where that was asked for, and report on rollouts.

    What cannot be asked for just now, as a server is silent, is asked for at the next look, and delays no other.
    """
    evidence.untell(context.database, f"{ROLLOUTS} AND state = 'running'")
    todo: list[Callable[[], None]] = [
        *(partial(_after_one, context, found, offer) for found, offer in evidence.untold(context.database)),
        *(partial(_after_many, context, one) for one in context.operations.select(f"{REHEARSED} AND {ENDED}")),
        *(partial(_after_rollout, context, one) for one in context.operations.select(f"{ROLLOUTS} AND {ENDED}")),
    ]
    errors: list[Exception] = []
    for work in todo:
        try:
            work()
        except TenantBusy:
            # The next run requests it again.
            continue
        except (Refused, LxdError, NotPosted) as error:
            errors.append(error)
    if errors:
        raise errors[-1]


def _after_one(context: Context, found: Evidence, offer: bool) -> None:
    rehearsal = context.operations.get(found.operation)
    no_offer = ""
    try:
        if offer and found.passed:
            _offer(context, rehearsal, found)
    except TenantBusy:
        raise
    except Refused as no:
        change = "update" if found.patches else "upgrade"
        no_offer = f"\n:warning: The {change} is not requested: {sentence(str(no))}"
    # A rehearsal of a batch is reported in the thread of the batch.
    thread = context.operations.get(rehearsal.parent) if rehearsal.parent else rehearsal
    _tell(context, found.operation, thread, _told(context, thread, found) + no_offer)


def _after_many(context: Context, rehearsals: Operation) -> None:
    said = ""
    try:
        _offer_all(context, rehearsals)
    except TenantBusy:
        raise
    except Refused as no:
        said = f":warning: What was rehearsed is not requested: {sentence(str(no))}"
    _tell(context, rehearsals.id, rehearsals, said)


def _after_rollout(context: Context, rollout: Operation) -> None:
    _tell(context, rollout.id, rollout, _report(context, rollout))


def _tell(context: Context, operation: int, thread: Operation, said: str) -> None:
    """Add a note to a thread, and record that the operation was reported; both or neither."""
    with context.database.transaction() as transaction:
        evidence.told(transaction, operation)
        if said:
            context.operations.note(transaction, thread.id, said)
    context.operations.changed()


def _told(context: Context, thread: Operation, found: Evidence) -> str:
    """Attach the log or the pictures of a rehearsal to the thread, and return the text about the rehearsal."""
    if found.passed and thread.plan.get("texts", {}).get("then"):
        # The card of the rollout that follows shows it.
        return ""
    step = context.operations.get(found.operation).step(found.step).title
    said = context.renderer.words("evidence.j2", found=found, step=step)
    if found.failed:
        return said + _log(context, thread, found)
    # Nobody looks at pictures of many tenants in one thread.
    return said if thread.children else said + _pages(context, thread, found)


def _log(context: Context, thread: Operation, found: Evidence) -> str:
    """Attach the log of a failed rehearsal to the thread; return a sentence about where the log is."""
    path = files(context.settings, found.operation) / LOG
    try:
        text = path.read_text()
        name = f"rehearsal-{found.operation}.log"
        if thread.message_ts:
            if _is_there(context, thread, name):
                return "\nThe log is attached."
            # Few may read logs (`logs`), and many read a channel: only the file on the bot's machine has all of it.
            context.post.file(
                thread.channel,
                without_mailboxes(text),
                name=name,
                title=f"The rehearsal of {found.tenant}: what Mautic said, and its log",
                thread_ts=thread.message_ts,
            )
            return "\nThe log is attached."
    except OSError:
        return "\nNo log was kept."
    except NotPosted as error:
        return f"\nThe log could not be attached ({sentence(str(error))}); it is kept on the bot's machine as `{path}`."
    return f"\nThe log is kept on the bot's machine as `{path}`."


def _is_there(context: Context, thread: Operation, name: str) -> bool:
    """Return whether a file is in the thread already: the bot may have crashed before it recorded that."""
    return bool(context.post.find(thread.channel, name, since=thread.created, thread_ts=thread.message_ts))


def _pages(context: Context, thread: Operation, found: Evidence) -> str:
    """Attach the pictures of the pages to the thread; return the text about pages and pictures."""
    try:
        before, after = pages(context.settings, found.operation)
    except OSError:
        return ""
    said = context.renderer.words("pages.j2", found=worse(before, after), left_out=after.left_out).strip()
    try:
        domain = context.fleet.tenant(found.tenant).domain
    except Refused as no:
        # The tenant is gone since, or two have that name: what was found is reported all the same.
        return f"\n{said}\nNo pictures were taken: {sentence(str(no))}"
    taken = pictures.take(before, after, domain, context.settings.pictures.chromium)
    shares = ", ".join(f"{one.key} {one.share:.1%}" for one in taken.pictures if one.png)
    lines = [said, taken.why, f"Pictures, share of pixels that differ: {shares}" if shares else ""]
    for one in taken.pictures:
        if not one.png or not thread.message_ts:
            lines.append(one.why)
            continue
        title = f"{one.key}: {one.share:.1%} of the picture differs"
        name = f"rehearsal-{found.operation}-{one.key}.png"
        with suppress(NotPosted):
            if _is_there(context, thread, name):
                continue
            context.post.picture(
                thread.channel,
                one.png,
                name=name,
                title=title,
                thread_ts=thread.message_ts,
                alt=f"The {one.key} page before and after, beside each other",
            )
    return "".join(f"\n{line}" for line in lines if line)


def _report(context: Context, rollout: Operation) -> str:
    """Return the report on a rollout, tenant by tenant where the upgrade did not succeed."""
    children = context.operations.select("parent = ?", rollout.id, order="ring, id")
    done = [one for one in children if one.state == "succeeded"]
    away = {one.tenant: seconds for one in done if (seconds := _away(one)) is not None}
    return context.renderer.words(
        "commands/rollout.j2",
        operation=rollout,
        plan=rollout.plan,
        arguments=rollout.arguments,
        took=(rollout.finished or 0.0) - (rollout.started or rollout.created),
        done=done,
        not_done=[one for one in children if one.state != "succeeded"],
        total=len(children),
        longest=max(away, key=lambda tenant: away[tenant]) if away else "",
        away=away,
        rings=len({one.ring for one in children}),
    )


def _away(upgrade: Operation) -> float | None:
    """Return the seconds for which clients saw the maintenance page; None: not known."""
    closed, there = upgrade.step("close").started, upgrade.step("probe").finished
    return there - closed if closed and there else None


def _offer_all(context: Context, rehearsals: Operation) -> None:
    """Request the rollout or patch that a batch of rehearsals was made for."""
    command, arguments = context.registry.parse(rehearsals.plan["texts"]["then"])
    _request(context, rehearsals, command, arguments)


def _offer(context: Context, rehearsal: Operation, found: Evidence) -> None:
    """Request an upgrade for the person who asked for its rehearsal; once, however often this is called."""
    asked = rehearsal.plan.get("texts", {}).get("upgrade") or (
        f"patch {found.tenant}" if found.patches else f"upgrade {found.tenant} {found.version}"
    )
    _request(context, rehearsal, *context.registry.parse(asked))


def _request(context: Context, after: Operation, command: Command, arguments: dict[str, Any]) -> None:
    key = f"rehearsal-{after.id}"
    if context.operations.requested(key):
        return
    actor = Actor(after.requester, context.people.roles_now(after.requester))
    context = replace(context, actor=actor, channel=after.channel, delivery=key, follows=after.id)
    with context.fleet.reading_once():
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
